//! Stands in for the library's coming interface until that is there.

pub use hfreduce::{Config, DType, Error, Kind, ReduceOp};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::Duration;

#[derive(Clone, Copy, Debug)]
pub enum Collective {
    AllReduce,
    ReduceScatter,
    AllGather,
    Broadcast { root: u32 },
    Reduce { root: u32 },
    Barrier,
    AllToAll,
    AllToAllV,
    Gather { root: u32 },
    Scatter { root: u32 },
}
pub struct Block {
    pub at: *mut u8,
    pub count: usize,
}
pub struct Blocks {
    pub input: Vec<Block>,
    pub output: Vec<Block>,
}
unsafe impl Send for Blocks {}
unsafe impl Sync for Blocks {}
pub struct RawCall {
    pub collective: Collective,
    pub dtype: DType,
    pub op: ReduceOp,
    pub count: usize,
    pub input: *const u8,
    pub output: *mut u8,
    pub blocks: Option<Arc<Blocks>>,
}
unsafe impl Send for RawCall {}

type Callback = Box<dyn FnOnce(Result<(), Error>) + Send>;
#[derive(Default)]
struct State {
    result: Option<Result<(), Error>>,
    then: Vec<Callback>,
}
#[derive(Clone, Default)]
pub struct Pending(Arc<(Mutex<State>, Condvar)>);
impl Pending {
    fn tell(&self, r: Result<(), Error>) {
        let then = {
            let mut s = self.0.0.lock().unwrap();
            s.result = Some(r.clone());
            self.0.1.notify_all();
            std::mem::take(&mut s.then)
        };
        for f in then {
            f(r.clone())
        }
    }
    pub fn wait_for(&self, limit: Duration) -> Option<Result<(), Error>> {
        let s = self.0.0.lock().unwrap();
        self.0
            .1
            .wait_timeout_while(s, limit, |s| s.result.is_none())
            .unwrap()
            .0
            .result
            .clone()
    }
    pub fn result(&self) -> Option<Result<(), Error>> {
        self.0.0.lock().unwrap().result.clone()
    }
    pub fn then(&self, f: impl FnOnce(Result<(), Error>) + Send + 'static) {
        let mut s = self.0.0.lock().unwrap();
        match s.result.clone() {
            Some(r) => {
                drop(s);
                f(r)
            }
            None => s.then.push(Box::new(f)),
        }
    }
}
pub struct Communicator {
    comm: Arc<hfreduce::Communicator>,
    tx: Mutex<mpsc::Sender<(RawCall, Pending)>>,
    open: Arc<std::sync::atomic::AtomicUsize>,
}
impl std::ops::Deref for Communicator {
    type Target = hfreduce::Communicator;
    fn deref(&self) -> &Self::Target {
        &self.comm
    }
}
fn missing() -> Error {
    Error::new(Kind::InvalidArgument, "not in this build yet", "")
}
unsafe fn go(comm: &hfreduce::Communicator, c: RawCall) -> Result<(), Error> {
    use hfreduce::plan::Collective as P;
    if c.blocks.is_some() {
        return Err(missing());
    }
    let collective = match c.collective {
        Collective::AllReduce => P::AllReduce,
        Collective::ReduceScatter => P::ReduceScatter,
        Collective::AllGather => P::AllGather,
        Collective::Broadcast { root } => P::Broadcast { root },
        Collective::Reduce { root } => P::Reduce { root },
        Collective::Barrier => P::Barrier,
        _ => return Err(missing()),
    };
    let input = if c.input.is_null() {
        c.output as *const u8
    } else {
        c.input
    };
    let output = if c.output.is_null() {
        c.input as *mut u8
    } else {
        c.output
    };
    unsafe {
        comm.run(hfreduce::RawCall {
            collective,
            dtype: c.dtype,
            op: c.op,
            count: c.count,
            input,
            output,
        })
    }
}
impl Communicator {
    fn of(comm: hfreduce::Communicator) -> Communicator {
        let comm = Arc::new(comm);
        let (tx, rx) = mpsc::channel::<(RawCall, Pending)>();
        let c = comm.clone();
        let open = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let o = open.clone();
        std::thread::spawn(move || {
            for (call, p) in rx {
                let r = unsafe { go(&c, call) };
                o.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                p.tell(r)
            }
        });
        Communicator {
            comm,
            tx: Mutex::new(tx),
            open,
        }
    }
    pub fn connect(config: &Config) -> Result<Communicator, Error> {
        hfreduce::Communicator::connect(config).map(Communicator::of)
    }
    pub fn join(id: &UniqueId, config: &Config) -> Result<Communicator, Error> {
        let mut config = config.clone();
        config.rendezvous = Some(id.0.clone());
        config.cookie = id.0.as_bytes().to_vec();
        Communicator::connect(&config)
    }
    pub fn split(&self, color: Option<u32>, key: i64) -> Result<Option<Communicator>, Error> {
        Ok(self.comm.split(color, key)?.map(Communicator::of))
    }
    pub unsafe fn run(&self, c: RawCall) -> Result<(), Error> {
        if self.open.load(std::sync::atomic::Ordering::SeqCst) > 0 {
            let p = unsafe { self.start(c) };
            loop {
                if let Some(r) = p.wait_for(Duration::from_secs(100)) {
                    return r;
                }
            }
        }
        unsafe { go(&self.comm, c) }
    }
    pub unsafe fn start(&self, c: RawCall) -> Pending {
        self.open.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let p = Pending::default();
        self.tx.lock().unwrap().send((c, p.clone())).unwrap();
        p
    }
    pub unsafe fn start_send(&self, _: DType, _: usize, _: *const u8, _: usize, _: u64) -> Pending {
        let p = Pending::default();
        p.tell(Err(missing()));
        p
    }
    pub unsafe fn start_recv(&self, _: DType, _: usize, _: *mut u8, _: usize, _: u64) -> Pending {
        let p = Pending::default();
        p.tell(Err(missing()));
        p
    }
    pub fn failure(&self) -> Option<Error> {
        None
    }
}
pub struct UniqueId(String);
impl UniqueId {
    pub fn create() -> Result<UniqueId, Error> {
        let l = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        Ok(UniqueId(l.local_addr().unwrap().to_string()))
    }
    pub fn create_near(_: &str) -> Result<UniqueId, Error> {
        UniqueId::create()
    }
    pub fn to_bytes(&self) -> [u8; 128] {
        let mut b = [0; 128];
        b[..self.0.len()].copy_from_slice(self.0.as_bytes());
        b
    }
    pub fn from_bytes(b: &[u8; 128]) -> Result<UniqueId, Error> {
        Ok(UniqueId(
            String::from_utf8_lossy(b).trim_end_matches('\0').to_owned(),
        ))
    }
}
pub fn config_of_rank(rank: usize, world: usize) -> Result<Config, Error> {
    let mut c = Config::from_env()?;
    c.rank = rank;
    c.world = world;
    Ok(c)
}
