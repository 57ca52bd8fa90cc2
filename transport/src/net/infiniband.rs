//! Which RDMA device, port and addresses a rank should use, as the environment says it in NCCL's words. It knows names and
//! numbers, no device: this is there in every build, so that a setting is understood or refused whether or not the build has the
//! verbs wire. Invariant: a number that is out of its field's range never gets as far as a device.

/// The user's choices; `Default` leaves everything to the library.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Infiniband {
    /// `HFR_IB_HCA`: devices, with ports where they matter (`mlx5_0:1,mlx5_2`, `=mlx5_0`, `^mlx5_1`).
    pub hca: Option<String>,
    /// `HFR_IB_GID_INDEX`: row of the port's GID table.
    pub gid_index: Option<u8>,
    /// `HFR_IB_SL`: service level, 0 to 15; on RoCE the priority.
    pub service_level: u8,
    /// `HFR_IB_TC`: traffic class, 0 to 255; on RoCE v2 the DSCP and ECN bits of the packets.
    pub traffic_class: u8,
    /// `HFR_IB_PKEY`: row of the port's partition table.
    pub pkey_index: u16,
}

impl Infiniband {
    /// Reads `HFR_IB_HCA`, `HFR_IB_GID_INDEX`, `HFR_IB_SL`, `HFR_IB_TC` and `HFR_IB_PKEY`, and where one is not set NCCL's of the same name.
    ///
    /// # Errors
    /// A variable that is no number of its range, by name and value.
    pub fn from_env(env: &dyn Fn(&str) -> Option<String>) -> Result<Infiniband, String> {
        let number = |what: &str, most: u16| match find(env, what) {
            None => Ok(None),
            // NCCL's own sign for "choose yourself".
            Some((_, text)) if text.trim() == "-1" => Ok(None),
            Some((name, text)) => match text.trim().parse::<u16>() {
                Ok(n) if n <= most => Ok(Some(n)),
                _ => Err(format!("{name}={text} is no number from 0 to {most}")),
            },
        };
        Ok(Infiniband {
            hca: find(env, "HCA").map(|(_, text)| text),
            gid_index: number("GID_INDEX", 254)?.map(|n| n as u8),
            service_level: number("SL", 15)?.unwrap_or(0) as u8,
            traffic_class: number("TC", 255)?.unwrap_or(0) as u8,
            pkey_index: number("PKEY", u16::MAX)?.unwrap_or(0),
        })
    }

    /// Whether this port of this device may be used.
    pub fn allows(&self, device: &str, port: u8) -> bool {
        let Some(text) = &self.hca else { return true };
        let text = text.trim();
        let (exclude, text) = strip(text, '^');
        let (exact, text) = strip(text, '=');
        let named = |entry: &str| {
            let (entry, own) = match entry.strip_prefix('=') {
                Some(rest) => (rest, true),
                None => (entry, exact),
            };
            let (name, of) = match entry.split_once(':') {
                Some((name, of)) => (name, of.parse::<u8>().ok()),
                None => (entry, Some(port)),
            };
            let fits = if own {
                device == name
            } else {
                device.starts_with(name)
            };
            fits && of == Some(port)
        };
        let mut entries = text.split(',').map(str::trim).filter(|e| !e.is_empty());
        entries.any(named) != exclude
    }
}

fn find(env: &dyn Fn(&str) -> Option<String>, what: &str) -> Option<(String, String)> {
    ["HFR_IB_", "NCCL_IB_"].iter().find_map(|prefix| {
        let name = format!("{prefix}{what}");
        let text = env(&name).filter(|text| !text.is_empty())?;
        Some((name, text))
    })
}

fn strip(text: &str, mark: char) -> (bool, &str) {
    text.strip_prefix(mark)
        .map_or((false, text), |rest| (true, rest))
}

#[cfg(test)]
mod tests {
    use super::Infiniband;

    fn from(pairs: &[(&str, &str)]) -> Result<Infiniband, String> {
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(a, b)| (a.to_string(), b.to_string()))
            .collect();
        Infiniband::from_env(&move |name| {
            let found = pairs.iter().find(|(known, _)| known == name);
            found.map(|(_, text)| text.clone())
        })
    }

    #[test]
    fn every_form_of_a_device_list_allows_what_it_says() {
        let cases = [
            ("mlx5", "mlx5_0:1 mlx5_9:2", "rxe0:1"),
            ("=mlx5_1", "mlx5_1:1 mlx5_1:2", "mlx5_10:1"),
            ("mlx5_1:2,rxe0", "mlx5_1:2 mlx5_10:2 rxe0:1", "mlx5_1:1"),
            ("=mlx5_1:2,=rxe0:1", "mlx5_1:2 rxe0:1", "rxe0:2 mlx5_10:2"),
            ("^mlx5_1:2", "mlx5_1:1 mlx5_0:2", "mlx5_1:2"),
            ("^=mlx5_1", "mlx5_10:1", "mlx5_1:1"),
            ("mlx5_0:x", "", "mlx5_0:1"),
        ];
        for (text, yes, no) in cases {
            let ib = from(&[("HFR_IB_HCA", text)]).unwrap();
            let allows = |entry: &str| {
                let (name, port) = entry.split_once(':').unwrap();
                ib.allows(name, port.parse().unwrap())
            };
            for entry in yes.split_whitespace() {
                assert!(allows(entry), "'{text}' allows {entry}");
            }
            for entry in no.split_whitespace() {
                assert!(!allows(entry), "'{text}' forbids {entry}");
            }
        }
        assert!(Infiniband::default().allows("anything", 3));
    }

    #[test]
    fn our_numbers_win_over_the_ones_people_know_and_have_bounds() {
        let ib = from(&[
            ("NCCL_IB_SL", "3"),
            ("HFR_IB_SL", "5"),
            ("NCCL_IB_TC", "106"),
            ("HFR_IB_GID_INDEX", "-1"),
        ]);
        let ib = ib.unwrap();
        assert_eq!(
            (ib.service_level, ib.traffic_class, ib.gid_index),
            (5, 106, None)
        );
        assert_eq!(
            from(&[("NCCL_IB_GID_INDEX", "3")]).unwrap().gid_index,
            Some(3)
        );
        let error = from(&[("HFR_IB_SL", "16")]).unwrap_err();
        assert_eq!(error, "HFR_IB_SL=16 is no number from 0 to 15");
        assert!(
            from(&[("NCCL_IB_TC", "high")])
                .unwrap_err()
                .contains("NCCL_IB_TC=high")
        );
    }
}
