//! The header against the code: every function with the types of its arguments, every number, the layout of the config, the version. Reads both
//! as text; knows nothing of what they do. That the shared library exports these functions and no others is for `tests/programs.rs`.

use crate::{
    config::{Given, MAGIC},
    value::{self, BITWISE, Code, FIRST_BITWISE, HOST_IMMEDIATE, Id, NO_COLOR, OPS, TYPES},
};
use std::{collections::BTreeMap, ffi::c_int, mem::offset_of};

const HEADER: &str = include_str!("../include/hfreduce.h");

/// Where exported functions are.
const SOURCES: [&str; 8] = [
    include_str!("collective.rs"),
    include_str!("end.rs"),
    include_str!("group.rs"),
    include_str!("memory.rs"),
    include_str!("message.rs"),
    include_str!("redop.rs"),
    include_str!("reducer.rs"),
    include_str!("start.rs"),
];

/// A type of the header's, and what it is in Rust.
const IN_RUST: &[(&str, &str)] = &[
    ("char*", "*const c_char"),
    ("const char*", "*const c_char"),
    ("const char* const**", "*mut *const *const c_char"),
    ("const hfrConfig_t*", "*const Given"),
    ("const size_t[]", "*const usize"),
    ("const void*", "*const c_void"),
    ("hfrComm_t", "Handle"),
    ("hfrComm_t*", "*mut Handle"),
    ("hfrDataType_t", "c_int"),
    ("hfrRedOp_t", "c_int"),
    ("hfrRedOp_t*", "*mut c_int"),
    ("hfrReducer_t", "Handle"),
    ("hfrReducer_t*", "*mut Handle"),
    ("hfrScalarResidence_t", "c_int"),
    ("hfrStream_t", "Stream"),
    ("hfrUniqueId", "Id"),
    ("hfrUniqueId*", "*mut Id"),
    ("int", "c_int"),
    ("int*", "*mut c_int"),
    ("size_t", "usize"),
    ("size_t*", "*mut usize"),
    ("void", ""),
    ("void*", "*mut c_void"),
    ("void**", "*mut *mut c_void"),
];

/// What a function gives and takes, in Rust's types, by its name.
type Functions = BTreeMap<String, (String, Vec<String>)>;

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The header without comments and directives.
fn plain(header: &str) -> String {
    let mut text = String::new();
    let mut rest = header;
    while let Some((before, behind)) = rest.split_once("/*") {
        text += before;
        rest = behind.split_once("*/").expect("a comment that ends").1;
    }
    text += rest;
    let lines = text.replace("\\\n", " ");
    let code = lines.lines().filter(|l| !l.trim_start().starts_with('#'));
    code.collect::<Vec<_>>().join("\n")
}

fn in_rust(function: &str, argument: &str) -> String {
    // The name is the last word, the brackets of an array come behind it.
    let (argument, array) = match argument.strip_suffix("[]") {
        Some(argument) => (argument, "[]"),
        None => (argument, ""),
    };
    let of = match argument.rsplit_once(' ') {
        Some((of, _)) => format!("{of}{array}"),
        None => argument.to_owned(),
    };
    let known = IN_RUST.iter().find(|(c, _)| *c == of);
    known
        .unwrap_or_else(|| panic!("{function} takes a {of}, which has no place in IN_RUST"))
        .1
        .to_owned()
}

fn declared() -> Functions {
    let mut found = Functions::new();
    for statement in plain(HEADER).split(';') {
        let statement = words(statement);
        let Some((front, arguments)) = statement.split_once('(') else {
            continue;
        };
        let front = front.rsplit(['{', '}']).next().unwrap_or(front).trim();
        let Some((result, name)) = front.rsplit_once(' ') else {
            continue;
        };
        assert!(name.starts_with("hfr"), "{statement}");
        let result = match result {
            "hfrResult_t" => "Code",
            "const char*" => "*const c_char",
            other => panic!("{name} gives a {other}"),
        };
        let arguments = arguments.trim_end_matches(')').split(", ");
        // An argument that is an out result: the code it is told.
        let of = |a: &str| match a {
            "hfrResult_t* asyncError" => "*mut Code".to_owned(),
            "hfrResult_t result" => "c_int".to_owned(),
            other => in_rust(name, other),
        };
        let types: Vec<String> = arguments.map(of).filter(|t| !t.is_empty()).collect();
        assert!(
            found
                .insert(name.to_owned(), (result.to_owned(), types))
                .is_none(),
            "{name} twice"
        );
    }
    found
}

fn defined() -> Functions {
    let mut found = Functions::new();
    for source in SOURCES {
        for item in source.split("#[unsafe(no_mangle)]").skip(1) {
            let item = item
                .strip_prefix("\npub unsafe extern \"C\" fn ")
                .expect("an exported function");
            let (name, behind) = item.split_once('(').expect("arguments");
            let (arguments, behind) = behind.split_once(") -> ").expect("a result");
            let (result, _) = behind.split_once(" {").expect("a body");
            let types = arguments.split(',').map(words).filter(|a| !a.is_empty());
            let types = types
                .map(|a| a.split_once(": ").expect("a type").1.to_owned())
                .collect();
            found.insert(name.to_owned(), (result.to_owned(), types));
        }
    }
    found
}

#[test]
fn every_function_is_declared_as_it_is_defined() {
    let declared = declared();
    assert!(declared.len() > 40, "the header was not read: {declared:?}");
    assert_eq!(declared, defined(), "left: hfreduce.h; right: the sources");
}

/// The enumerators of the header, by name.
fn numbers() -> BTreeMap<String, c_int> {
    let text = plain(HEADER);
    let mut found = BTreeMap::new();
    for body in text.split("typedef enum {").skip(1) {
        let (body, _) = body.split_once('}').expect("an end");
        for one in body.split(',') {
            let one = words(one);
            let (name, number) = one
                .split_once(" = ")
                .expect("every enumerator has its number");
            let number = match number.strip_prefix("0x") {
                Some(digits) => c_int::from_str_radix(digits, 16),
                None => number.parse(),
            };
            found.insert(name.to_owned(), number.expect("a number"));
        }
    }
    found
}

#[test]
fn every_number_of_the_header_is_the_codes() {
    let mut expected: Vec<(String, c_int)> = Code::ALL
        .iter()
        .map(|code| (format!("hfr{code:?}"), *code as c_int))
        .collect();
    let c_names = [
        "Int8",
        "Uint8",
        "Int32",
        "Uint32",
        "Int64",
        "Uint64",
        "Float16",
        "Float32",
        "Float64",
        "Bfloat16",
        "Float8e4m3",
        "Float8e5m2",
    ];
    let rust_names = [
        "int8", "uint8", "int32", "uint32", "int64", "uint64", "half", "float", "double",
        "bfloat16", "f8e4m3", "f8e5m2",
    ];
    for (i, name) in c_names.iter().enumerate() {
        expected.push((format!("hfr{name}"), i as c_int));
        assert_eq!(
            value::dtype(i as c_int).map(|t| t.name()),
            Ok(rust_names[i])
        );
    }
    for (other, same) in [
        ("Char", "Int8"),
        ("Int", "Int32"),
        ("Half", "Float16"),
        ("Float", "Float32"),
        ("Double", "Float64"),
    ] {
        let i = c_names.iter().position(|n| *n == same).expect("a type");
        expected.push((format!("hfr{other}"), i as c_int));
    }
    for (names, first, ops) in [
        (&["Sum", "Prod", "Max", "Min", "Avg"][..], 0, &OPS[..]),
        (&["Band", "Bor", "Bxor"], FIRST_BITWISE, &BITWISE),
    ] {
        for (i, name) in names.iter().enumerate() {
            let number = first + i as c_int;
            expected.push((format!("hfr{name}"), number));
            assert_eq!(
                value::op(number).map(|op| op.name()),
                Some(name.to_lowercase().as_str())
            );
            assert_eq!(value::op(number), Some(ops[i]));
        }
    }
    for (name, number) in [
        ("NumResults", Code::ALL.len() as c_int),
        ("NumTypes", TYPES.len() as c_int),
        ("NumOps", OPS.len() as c_int),
        ("MaxRedOp", c_int::MAX),
        ("ScalarDevice", 0),
        ("ScalarHostImmediate", HOST_IMMEDIATE),
    ] {
        expected.push((format!("hfr{name}"), number));
    }
    assert_eq!(
        numbers(),
        expected.into_iter().collect(),
        "left: hfreduce.h; right: the code"
    );
    for number in [-1, 12, c_int::MIN, c_int::MAX] {
        assert!(value::dtype(number).is_err() && value::op(number).is_none());
    }
    assert!(value::op(5).is_none() && value::op(FIRST_BITWISE + 3).is_none());
}

#[test]
fn the_macros_of_the_header_are_the_codes() {
    let macros: BTreeMap<&str, &str> = HEADER
        .lines()
        .filter_map(|l| l.strip_prefix("#define ")?.split_once(' '))
        .map(|(name, value)| (name, value.trim()))
        .collect();
    for (name, value) in [
        ("HFR_MAJOR", env!("CARGO_PKG_VERSION_MAJOR").to_owned()),
        ("HFR_MINOR", env!("CARGO_PKG_VERSION_MINOR").to_owned()),
        ("HFR_PATCH", env!("CARGO_PKG_VERSION_PATCH").to_owned()),
        ("HFR_CONFIG_MAGIC", format!("{MAGIC:#x}u")),
        ("HFR_CONFIG_UNDEF_INT", "INT_MIN".to_owned()),
        ("HFR_SPLIT_NOCOLOR", format!("({NO_COLOR})")),
        ("HFR_UNIQUE_ID_BYTES", size_of::<Id>().to_string()),
    ] {
        assert_eq!(macros.get(name), Some(&value.as_str()), "{name}");
    }
}

#[test]
fn the_config_is_laid_out_as_the_header_has_it() {
    // As C lays it out on x86-64; `tests/values.c` says the same to a C compiler.
    let places = [
        offset_of!(Given, size),
        offset_of!(Given, magic),
        offset_of!(Given, version),
        offset_of!(Given, blocking),
        offset_of!(Given, timeoutMs),
        offset_of!(Given, connectTimeoutMs),
        offset_of!(Given, node),
        offset_of!(Given, gpu),
        size_of::<Given>(),
    ];
    assert_eq!(places, [0, 8, 12, 16, 20, 24, 32, 40, 48]);
    assert_eq!(size_of::<Code>(), size_of::<c_int>());
}
