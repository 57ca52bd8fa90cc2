//! NCCL's syntax for naming interfaces: `eth,ib` takes names that begin so, `=eth0` that very name, and `^` in front of the
//! whole list turns it around. It knows names only, no addresses.

/// Which interface names are allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    exclude: bool,
    exact: bool,
    names: Vec<String>,
}

impl Selector {
    /// Reads a selector; every text is one. `^` and `=` hold for the whole list, `=` is also understood before single names.
    pub fn parse(text: &str) -> Selector {
        let text = text.trim();
        let (exclude, text) = strip(text, '^');
        let (exact, text) = strip(text, '=');
        let names = text
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty());
        Selector {
            exclude,
            exact,
            names: names.map(str::to_owned).collect(),
        }
    }

    /// Whether it names what is not wanted.
    pub fn excludes(&self) -> bool {
        self.exclude
    }

    /// Whether the interface of this name may be used.
    pub fn allows(&self, interface: &str) -> bool {
        let named = |name: &String| match name.strip_prefix('=') {
            Some(name) => interface == name,
            None if self.exact => interface == name,
            None => interface.starts_with(name.as_str()),
        };
        self.names.iter().any(named) != self.exclude
    }
}

fn strip(text: &str, mark: char) -> (bool, &str) {
    text.strip_prefix(mark)
        .map_or((false, text), |rest| (true, rest))
}

#[cfg(test)]
mod tests {
    use super::Selector;

    #[test]
    fn every_form_allows_what_it_says() {
        let cases = [
            ("eth", "eth0 eth1", "ib0 veth0 et"),
            ("=eth0", "eth0", "eth01 eth"),
            ("=eth0,ib1", "eth0 ib1", "eth01 ib10"),
            ("eth, =ib0", "eth7 ib0", "ib01"),
            ("^docker,lo", "eth0 vlo", "docker0 lo loop"),
            ("^=lo", "lo1 eth0", "lo"),
            ("", "", "eth0 lo"),
            ("^", "eth0 lo", ""),
            (",eth,", "eth0", "lo"),
        ];
        for (text, yes, no) in cases {
            let selector = Selector::parse(text);
            for name in yes.split_whitespace() {
                assert!(selector.allows(name), "'{text}' allows {name}");
            }
            for name in no.split_whitespace() {
                assert!(!selector.allows(name), "'{text}' forbids {name}");
            }
        }
    }
}
