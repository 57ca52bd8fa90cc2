//! Sizes in bytes as people type them: `8`, `64K`, `1M`, `2G`, 1024-based as in nccl-tests. It knows no buffers.

/// Parses a size; a fraction is allowed where the result is a whole number of bytes (`1.5K`).
///
/// # Errors
/// A sentence, when the text is no size or does not fit.
pub fn parse(text: &str) -> Result<usize, String> {
    let wrong = || format!("'{text}' is not a size such as 8, 64K, 1M or 2G (1024-based)");
    let plain = text.trim().trim_end_matches(['B', 'b']);
    let plain = plain.strip_suffix(['i', 'I']).unwrap_or(plain);
    let (digits, shift) = match plain.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&plain[..at], 10),
        Some((at, 'm' | 'M')) => (&plain[..at], 20),
        Some((at, 'g' | 'G')) => (&plain[..at], 30),
        _ => (plain, 0),
    };
    if let Ok(whole) = digits.parse::<usize>() {
        return whole.checked_mul(1 << shift).ok_or_else(wrong);
    }
    let value: f64 = digits.parse().map_err(|_| wrong())?;
    let bytes = value * f64::from(1u32 << shift);
    if !(0.0..1e15).contains(&bytes) || bytes.fract() != 0.0 {
        return Err(wrong());
    }
    Ok(bytes as usize)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn suffixes_are_1024_based() {
        assert_eq!(parse("8"), Ok(8));
        assert_eq!(parse("64K"), Ok(65_536));
        assert_eq!(parse("64k"), Ok(65_536));
        assert_eq!(parse("3M"), Ok(3 << 20));
        assert_eq!(parse("2G"), Ok(2 << 30));
        assert_eq!(parse("4KiB"), Ok(4096));
        assert_eq!(parse("1.5K"), Ok(1536));
        for bad in [
            "",
            "K",
            "-1",
            "1T",
            "0.3",
            "nan",
            "99999999999999999999",
            "1e30G",
        ] {
            assert!(parse(bad).is_err(), "{bad} was taken for a size");
        }
    }
}
