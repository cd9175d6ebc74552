//! Durations as people read them: how long half of them took at most, and the worst.

use std::time::Duration;

/// The value of rank ⌈share·n⌉ of ascending durations, in milliseconds; nothing has no value.
pub fn quantile_ms(ascending: &[Duration], share: f64) -> Option<f64> {
    let rank = (share * ascending.len() as f64).ceil() as usize;
    ascending.get(rank.max(1) - 1).map(|duration| duration.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks() {
        let hundred: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        for (share, wanted) in [(0.0, 1.0), (0.5, 50.0), (0.99, 99.0), (0.991, 100.0), (1.0, 100.0)]
        {
            assert_eq!(quantile_ms(&hundred, share), Some(wanted), "{share}");
        }
        assert_eq!(quantile_ms(&[], 0.5), None);
    }
}
