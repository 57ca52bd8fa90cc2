//! What the bench says, and where: the table or JSON lines on standard output, JSON lines in a file, progress on a terminal. Every rank
//! has one and only rank 0's speaks. Invariant: its verdict counts every wrong element that a row told.

use super::{
    Args,
    cases::{Case, simd},
    ceilings::Ceilings,
    overlap::Overlap,
    stages::{self, Stages},
    table::{HEADER, Line, Row, Way, row},
};
use crate::{
    job::{Call, Job},
    output::print,
};
use anyhow::{Context, Result};
use hfreduce::plan::Collective;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::{
    cell::Cell,
    fs::File,
    io::{IsTerminal, Write},
};

/// Bytes in which a rank tells the others about itself.
const NOTE: usize = 192;

/// Rank 0's mouth.
pub struct Report {
    speaks: bool,
    json: bool,
    file: Option<File>,
    /// Whether nobody reads standard output any more.
    deserted: Cell<bool>,
    progress: Option<ProgressBar>,
    ranks: usize,
    nodes: usize,
    titled: Option<&'static str>,
    wrong: u64,
    bus: (f64, usize),
    device: &'static str,
    ceilings: Option<Ceilings>,
    breakdown: Vec<String>,
    /// The combination that its last lines are of.
    broken_down: String,
}

impl Report {
    /// Says who takes part. All ranks call it.
    ///
    /// # Errors
    /// A file that cannot be written; a failure of the group.
    pub fn new(args: &Args, job: &Job, cases: &[Case], rows: usize) -> Result<Report> {
        let gpus = gather(job, &gpu(job)?)?;
        let notes = notes(job, &gpus)?;
        // The rank that came last waited for nobody.
        let starts = job.gather(&[job.start_up.as_secs_f64() * 1e3])?;
        let start_up = starts
            .iter()
            .flatten()
            .copied()
            .fold(f64::INFINITY, f64::min);
        let group = job.group();
        let speaks = group.rank() == 0;
        let simd = simd(cases);
        let progress = (speaks && std::io::stderr().is_terminal()).then(|| {
            let style =
                ProgressStyle::with_template("{bar:30} {pos} of {len} sizes, {elapsed}, {msg}")
                    .unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(rows as u64).with_style(style)
        });
        let mut report = Report {
            speaks,
            json: args.json,
            file: None,
            deserted: Cell::new(false),
            progress,
            ranks: group.size(),
            nodes: group.nodes(),
            titled: None,
            wrong: 0,
            bus: (0.0, 0),
            device: args.device.name(),
            ceilings: None,
            breakdown: Vec::new(),
            broken_down: String::new(),
        };
        if let Some(path) = args.json_file.as_ref().filter(|_| speaks) {
            let named = || format!("cannot write {}", path.display());
            let mut file = File::create(path).with_context(named)?;
            let header = json!({
                "program": "hfr bench", "version": env!("CARGO_PKG_VERSION"), "ranks": group.size(), "nodes": group.nodes(),
                "transport": group.transport(), "simd": simd,
                "warmup_iters": args.warmup_iters, "iters": args.iters, "registered": args.registered == 1, "devices": notes,
                "single_copy": group.single_copy(), "device": args.device.name(), "gpus": gpus, "start_up_ms": start_up,
            });
            writeln!(file, "{header}").with_context(named)?;
            report.file = Some(file);
        }
        report.header(args, job, &simd, &notes);
        report.say(&format!("# connected in {start_up:.1} ms"));
        Ok(report)
    }

    fn header(&self, args: &Args, job: &Job, simd: &str, notes: &[String]) {
        let group = job.group();
        self.say(&format!(
            "# hfr bench version {} device={} transport={} single_copy={} simd={}",
            env!("CARGO_PKG_VERSION"),
            args.device.name(),
            group.transport(),
            if group.single_copy() { "on" } else { "off" },
            simd
        ));
        let sizes = match (args.tensors, args.step) {
            (Some(t), _) => format!("tensors {} of {} bytes", t.number, t.bytes),
            (_, Some(step)) => format!(
                "minBytes {} maxBytes {} step: {step}(bytes)",
                args.min_bytes, args.max_bytes
            ),
            _ => format!(
                "minBytes {} maxBytes {} step: {}(factor)",
                args.min_bytes, args.max_bytes, args.factor
            ),
        };
        let iterations = args.iters.map_or("auto".to_owned(), |n| n.to_string());
        self.say(&format!(
            "# nranks {} nodes {} {sizes} warmup iters: {} iters: {iterations} validation: {} registered: {}",
            self.ranks, self.nodes, args.warmup_iters, args.check, args.registered
        ));
        self.say("#\n# Using devices");
        notes
            .iter()
            .for_each(|note| self.say(&format!("#  {note}")));
    }

    /// A line for people.
    fn say(&self, text: &str) {
        if self.speaks && !self.json {
            self.print(text);
        }
    }

    fn print(&self, text: &str) {
        if self.deserted.get() {
            return;
        }
        let line = format!("{text}\n");
        let read = match &self.progress {
            Some(bar) => bar.suspend(|| print(&line)),
            None => print(&line),
        };
        self.deserted.set(!read);
    }

    /// Whether what is measured from here on reaches nobody: the reader of standard output has gone, and no file is written. All ranks call it, and
    /// hear the same.
    ///
    /// # Errors
    /// A failure of the group.
    pub fn deserted(&self, job: &Job) -> Result<bool> {
        let own = self.deserted.get() && self.file.is_none();
        let all = job.gather(&[f64::from(u8::from(own))])?;
        Ok(all.iter().any(|rank| rank[0] != 0.0))
    }

    /// A new combination begins.
    pub fn case(&mut self, case: &Case) {
        match case {
            Case::Skip(why) => self.say(&format!("# skipped: {why}")),
            Case::Run(collective, ..) => {
                let name = collective.name();
                if self.titled != Some(name) {
                    self.say(&format!(
                        "#\n# Collective test starting: {name}\n#\n{HEADER}"
                    ));
                    self.titled = Some(name);
                }
            }
        }
    }

    /// A size is done: out of place, and in place where there is such.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn row(&mut self, call: &Call, ways: &[Way]) -> Result<()> {
        let (i, o) = call.lengths(self.ranks);
        let barrier = call.collective == Collective::Barrier;
        let op = if call.collective.reduces() {
            call.op.name()
        } else {
            "none"
        };
        let dtype = if barrier { "none" } else { call.dtype.name() };
        let text = row(
            &Row {
                bytes: i.max(o),
                count: call.count,
                dtype,
                op,
                root: call.collective.root().map_or(-1, i64::from),
            },
            ways,
        );
        self.say(&text);
        let stages = self.break_down(call, &format!("{dtype} {op}"), ways);
        for (way, in_place) in ways.iter().zip([false, true]) {
            self.wrong += way.wrong.unwrap_or(0);
            if !barrier {
                self.bus = (self.bus.0 + way.bus, self.bus.1 + 1);
            }
            let line = Line {
                collective: call.collective.name(),
                dtype,
                op: if op == "none" {
                    op.to_owned()
                } else {
                    call.op.to_string()
                },
                bytes: i.max(o),
                ranks: self.ranks,
                nodes: self.nodes,
                time_us: way.time,
                algbw: way.algorithm,
                busbw: way.bus,
                wrong: way.wrong,
                in_place,
                device: self.device,
                tensors: call.tensors,
                stages: stages.get(usize::from(in_place)).copied(),
            };
            self.line(&serde_json::to_string(&line)?)?;
        }
        if let Some(bar) = &self.progress {
            bar.inc(1);
            bar.set_message(format!(
                "{} {dtype} {} bytes",
                call.collective.name(),
                i.max(o)
            ));
        }
        Ok(())
    }

    /// What the stages did, noted for the end.
    fn break_down(&mut self, call: &Call, what: &str, ways: &[Way]) -> Vec<Stages> {
        let stage = |way: &Way| {
            let (metered, ceilings) = (way.metered.as_ref()?, self.ceilings.as_ref()?);
            Some(stages::stages(metered, way, ceilings))
        };
        let stages: Vec<_> = ways.iter().filter_map(stage).collect();
        if !stages.is_empty() {
            let title = format!("# {} {what}", call.collective.name());
            if self.broken_down != title {
                self.breakdown.push(title.clone());
                self.broken_down = title;
            }
            let (i, o) = call.lengths(self.ranks);
            self.breakdown.push(stages::line(i.max(o), &stages));
        }
        stages
    }

    /// What the machine can do.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn ceilings(&mut self, ceilings: Ceilings) -> Result<()> {
        self.line(&json!({ "ceilings": ceilings }).to_string())?;
        self.ceilings = Some(ceilings);
        Ok(())
    }

    /// What calls and a matrix product cost each other.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn overlap(&mut self, overlap: &Overlap) -> Result<()> {
        self.wrong += overlap.wrong;
        self.line(&json!({ "overlap": overlap }).to_string())?;
        overlap.lines().iter().for_each(|line| self.say(line));
        Ok(())
    }

    fn line(&mut self, line: &str) -> Result<()> {
        if self.speaks && self.json {
            self.print(line);
        }
        if let Some(file) = &mut self.file {
            writeln!(file, "{line}").context("cannot write the JSON file")?;
        }
        Ok(())
    }

    /// The footer, and the exit code.
    pub fn end(self) -> i32 {
        if let Some(bar) = &self.progress {
            bar.finish_and_clear();
        }
        if let Some(ceilings) = &self.ceilings {
            let header = stages::header(ceilings);
            header.iter().for_each(|line| self.say(line));
            if !self.breakdown.is_empty() {
                self.say(&format!("#\n{}", stages::titles()));
                self.breakdown.iter().for_each(|line| self.say(line));
            }
            self.say("#");
        }
        let verdict = if self.wrong == 0 { "OK" } else { "FAILED" };
        let mean = self.bus.0 / self.bus.1.max(1) as f64;
        self.say(&format!(
            "# Out of bounds values : {} {verdict}",
            self.wrong
        ));
        self.say(&format!("# Avg bus bandwidth    : {mean:.6}\n#"));
        i32::from(self.wrong > 0)
    }
}

/// What this rank says about its GPU; nothing where there is none.
fn gpu(job: &Job) -> Result<String> {
    let Some(gpu) = job.gpu() else {
        return Ok(String::new());
    };
    let gib = |bytes: usize| bytes as f64 / f64::from(1 << 30);
    Ok(format!(
        "GPU {} {} {:.1} GiB",
        gpu.ordinal(),
        gpu.name()?,
        gib(gpu.room()?.1)
    ))
}

/// What every rank says about itself, by rank.
fn notes(job: &Job, gpus: &[String]) -> Result<Vec<String>> {
    let group = job.group();
    let system = rustix::system::uname();
    let note = format!(
        "Rank {:>2} Group  0 Pid {:>6} on {:>10} node {:>2} local rank {:>2}",
        group.rank(),
        std::process::id(),
        system.nodename().to_string_lossy(),
        group.node(),
        group.local_rank()
    );
    let notes = gather(job, &note)?;
    let both = |(note, gpu): (&String, &String)| format!("{note} {gpu}").trim_end().to_owned();
    Ok(notes.iter().zip(gpus).map(both).collect())
}

/// Every rank's text, by rank, cut where it is too long.
fn gather(job: &Job, own: &str) -> Result<Vec<String>> {
    let mut note = own.as_bytes().to_vec();
    note.resize(NOTE, 0);
    let mut all = vec![0u8; NOTE * job.group().size()];
    job.group().all_gather(&note, &mut all)?;
    let text = |note: &[u8]| {
        String::from_utf8_lossy(note)
            .trim_end_matches('\0')
            .to_owned()
    };
    Ok(all.chunks(NOTE).map(text).collect())
}
