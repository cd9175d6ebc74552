//! What happens in a visit: scripts of eight events, each with the event that caused it.

/// Events in a visit.
pub(super) const STEPS: usize = 8;

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    View,
    Signup,
    Deposit,
    Signal,
    Order,
    /// The whole order.
    Fill,
    /// A part of the order.
    PartFill,
    /// What the part left.
    RestFill,
    Cancel,
    Close,
}

impl Kind {
    /// The event type with the subject in front of it.
    const fn subject(self) -> &'static str {
        match self {
            Self::View => "events.page.viewed",
            Self::Signup => "events.user.signup",
            Self::Deposit => "events.deposit.made",
            Self::Signal => "events.custom.trading.signal",
            Self::Order => "events.order.placed",
            Self::Fill | Self::PartFill | Self::RestFill => "events.order.filled",
            Self::Cancel => "events.order.cancelled",
            Self::Close => "events.position.closed",
        }
    }

    /// The subject under which it is published, and the event type.
    pub(super) fn names(self) -> (&'static str, &'static str) {
        let subject = self.subject();
        (subject, subject.strip_prefix("events.").unwrap_or(subject))
    }

    /// Who tells it.
    pub(super) fn source(self) -> &'static str {
        match self {
            Self::View | Self::Signup | Self::Deposit => "web",
            Self::Signal => "algo",
            _ => "oms",
        }
    }
}

/// One event of a visit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) kind: Kind,
    /// How many steps before it its cause lies; zero for none.
    pub(super) back: u8,
    /// The step that began its story; its own for a beginning.
    pub(super) root: u8,
    /// It neither has a cause nor causes anything.
    pub(super) alone: bool,
}

/// A visit, step by step.
pub(super) type Script = [Step; STEPS];

/// Visits of people, and of programs that trade on signals: how often of 32, and what happens with
/// the distance to its cause.
///
/// Of 256 events 78 are page views, 6 signups, 5 deposits, 24 signals, 56 orders, 57 fills, 10
/// cancellations and 20 closed positions.
const VISITS: [(usize, [(Kind, u8); STEPS]); 10] = {
    use Kind::{Cancel as X, Close as C, Deposit as D, Fill as F, Order as O, PartFill as P};
    use Kind::{RestFill as R, Signal as G, Signup as S, View as V};
    [
        // Looks around.
        (4, [(V, 0), (V, 0), (V, 0), (V, 0), (V, 0), (V, 0), (V, 0), (V, 0)]),
        // Signs up, pays in and trades: the whole funnel.
        (2, [(V, 0), (S, 1), (D, 1), (O, 1), (F, 1), (V, 0), (O, 0), (F, 1)]),
        // The same with time to think.
        (1, [(V, 0), (V, 0), (S, 1), (V, 0), (D, 2), (V, 0), (O, 2), (F, 1)]),
        // Signs up, no more.
        (1, [(V, 0), (S, 1), (V, 0), (V, 0), (V, 0), (V, 0), (V, 0), (V, 0)]),
        // Pays in and hesitates.
        (2, [(V, 0), (S, 1), (V, 0), (D, 2), (V, 0), (V, 0), (V, 0), (V, 0)]),
        // Trades; the second order is filled in two parts and the position closed.
        (6, [(V, 0), (O, 0), (F, 1), (O, 0), (P, 1), (R, 1), (C, 1), (V, 0)]),
        // Has two orders open at a time.
        (5, [(O, 0), (O, 0), (F, 2), (X, 2), (V, 0), (O, 0), (F, 1), (C, 1)]),
        // A program; one of its signals comes to nothing.
        (6, [(G, 0), (O, 1), (F, 1), (C, 1), (G, 0), (G, 0), (O, 1), (F, 1)]),
        // A program that is too slow once.
        (3, [(G, 0), (O, 1), (X, 1), (G, 0), (O, 1), (P, 1), (R, 1), (C, 1)]),
        // Cancels what a first part left.
        (2, [(O, 0), (P, 1), (X, 1), (V, 0), (O, 0), (F, 1), (O, 0), (F, 1)]),
    ]
};

/// All scripts, each as often as it happens of 32 times.
pub(super) fn scripts() -> Vec<Script> {
    let repeat = |(times, steps): &(usize, _)| vec![script(steps); *times];
    VISITS.iter().flat_map(repeat).collect()
}

fn script(steps: &[(Kind, u8); STEPS]) -> Script {
    let mut script = steps.map(|(kind, back)| Step { kind, back, root: 0, alone: back == 0 });
    for at in 0..STEPS {
        let cause = at - usize::from(script[at].back);
        if cause == at {
            script[at].root = at as u8;
        } else {
            script[at].root = script[cause].root;
            script[cause].alone = false;
        }
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_whole() {
        let scripts = scripts();
        assert_eq!(scripts.len(), 32);
        let count = |kind| scripts.iter().flatten().filter(|step| step.kind == kind).count();
        use Kind::*;
        let counts = [View, Signup, Deposit, Signal, Order, Cancel, Close].map(count);
        assert_eq!(counts, [78, 6, 5, 24, 56, 10, 20]);
        assert_eq!(count(Fill) + count(PartFill) + count(RestFill), 57);
        for script in &scripts {
            for (at, step) in script.iter().enumerate() {
                let begins = matches!(step.kind, View | Signal | Order);
                assert!(step.back > 0 || begins, "{step:?} needs a cause");
                assert!(step.kind != RestFill || script[at - 1].kind == PartFill);
                assert_eq!(usize::from(step.root) == at, step.back == 0);
            }
        }
    }
}
