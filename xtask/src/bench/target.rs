//! What a number must reach, what it should, and whether it does.

use crate::text::decimal;

/// Whether more is better.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Bound {
    AtLeast,
    AtMost,
}

/// What a measured number is held against.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub(super) bound: Bound,
    /// Less is a failure.
    pub(super) must: f64,
    /// What we aim at, if that is more.
    pub(super) aim: Option<f64>,
}

impl Target {
    pub(super) const fn at_least(must: f64, aim: f64) -> Self {
        Self { bound: Bound::AtLeast, must, aim: Some(aim) }
    }

    pub(super) const fn at_most(must: f64) -> Self {
        Self { bound: Bound::AtMost, must, aim: None }
    }

    fn is_met(self, limit: f64, value: f64) -> bool {
        match self.bound {
            Bound::AtLeast => value >= limit,
            Bound::AtMost => value <= limit,
        }
    }

    /// `0.52: must >= 0.30 (met), aim >= 0.60 (not met)`; a number that is missing meets nothing.
    pub(super) fn verdict(self, value: f64, decimals: usize) -> String {
        let sign = if self.bound == Bound::AtLeast { ">=" } else { "<=" };
        let judged = |word: &str, limit: f64| {
            let met = if self.is_met(limit, value) { "met" } else { "NOT met" };
            format!("{word} {sign} {} ({met})", decimal(limit, decimals))
        };
        let aim = self.aim.map(|aim| format!(", {}", judged("aim", aim))).unwrap_or_default();
        format!("{}: {}{aim}", decimal(value, decimals), judged("must", self.must))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let target = Target::at_least(0.3, 0.6);
        assert_eq!(target.verdict(0.52, 2), "0.52: must >= 0.30 (met), aim >= 0.60 (NOT met)");
        assert_eq!(Target::at_most(80.0).verdict(81.2, 0), "81: must <= 80 (NOT met)");
        assert!(Target::at_most(80.0).verdict(f64::NAN, 0).contains("NOT met"));
    }
}
