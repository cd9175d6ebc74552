//! How much processor time was used, as Linux counts it.

/// Clock ticks per second in `/proc`: fixed at 100 towards programs on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// Seconds of user and system time that this process has used, its ended threads included.
///
/// # Errors
/// There is no `/proc`, or it cannot be understood.
pub fn own_seconds() -> Result<f64, String> {
    seconds_of("self")
}

/// The same of another process.
///
/// # Errors
/// There is no such process, or no `/proc`.
pub fn seconds_of(process: &str) -> Result<f64, String> {
    let path = format!("/proc/{process}/stat");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    parse(&text).ok_or_else(|| format!("{path}: not as expected"))
}

fn parse(text: &str) -> Option<f64> {
    // The name of the program stands in parentheses and may hold anything.
    let (_, after_name) = text.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_system_time_are_added() {
        let text = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 25 13 14 15";
        assert_eq!(parse(text), Some(1.75));
        assert_eq!(parse("7 (a"), None);
        let before = own_seconds().unwrap();
        let mut number = 1_u64;
        while own_seconds().unwrap() <= before {
            number = std::hint::black_box(number.wrapping_mul(3));
        }
    }
}
