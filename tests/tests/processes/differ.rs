//! Ranks that do not call the same thing: each is told what both sides called, and nobody gets a result.

use super::*;

/// What the ranks in front of the dash call, and what the odd one calls.
const CASES: [(&str, &str); 6] = [
    (
        "call:all_reduce:1000:f32:sum:0",
        "call:all_reduce:1001:f32:sum:0",
    ),
    (
        "call:all_reduce:1000:f32:sum:0",
        "call:all_reduce:1000:i32:sum:0",
    ),
    (
        "call:all_reduce:1000:f32:sum:0",
        "call:all_reduce:1000:f32:max:0",
    ),
    (
        "call:broadcast:1000:f32:sum:0",
        "call:broadcast:1000:f32:sum:3",
    ),
    (
        "call:all_reduce:1000:f32:sum:0",
        "call:all_gather:1000:f32:sum:0",
    ),
    (
        "call:all_reduce:1000:f32:sum:0",
        "call:all_reduce:3000000:f32:sum:0",
    ),
];

fn words(call: &str) -> Vec<String> {
    let parts: Vec<&str> = call.split(':').collect();
    let name = match parts[3] {
        "f32" => "float",
        _ => "int32",
    };
    vec![parts[1].to_owned(), format!("of {} {name}", parts[2])]
}

#[test]
fn before_and_behind_the_first_call() {
    for (nodes, wire) in JOBS {
        for (most, odd) in CASES {
            for warm in [false, true] {
                let mut steps = Vec::new();
                if warm {
                    for call in [most, odd] {
                        steps.extend([call.to_owned(), call.to_owned()]);
                    }
                }
                steps.push("ready".to_owned());
                steps.push(format!("@0,2,3={most}"));
                steps.push(format!("@1={odd}"));
                // A root has nothing to wait for: it hears of the other call when it goes on.
                steps.push("barrier".to_owned());
                let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
                let mut job = start(&Plan::new(nodes, wire, "10"), &steps);
                let error = job.fails_alike(&[0, 1, 2, 3], LONG);
                assert!(
                    error.starts_with("Mismatch|"),
                    "{most} {odd} {warm}: {error}\n{}",
                    job.story()
                );
                for word in words(most).iter().chain(&words(odd)) {
                    assert!(
                        error.contains(word),
                        "{most} {odd} {warm}: no `{word}` in {error}"
                    );
                }
                if most.contains("all_reduce") {
                    for rank in 0..4 {
                        let said = job.said(rank);
                        let done = said.iter().skip_while(|l| *l != "ready").count();
                        assert!(done <= 2, "rank {rank} got a result\n{}", job.story());
                    }
                }
            }
        }
    }
}
