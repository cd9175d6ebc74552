//! Which worker decodes the next batch.

/// So many neighbouring batches go to one worker: an aggregate makes a partial of each pane on every
/// worker that sees it, and neighbours mostly share their panes.
const RUN_BATCHES: usize = 4;

/// Batches that wait for each worker: enough that it never waits, few enough to bound memory.
const UNDECODED_MAX: usize = 2 * RUN_BATCHES;

/// What each worker has to decode, and whose turn it is.
#[derive(Debug)]
pub(super) struct Turns {
    /// By worker: the batches that it has not decoded.
    undecoded: Vec<usize>,
    worker: usize,
    /// How many more batches go to that worker.
    left: usize,
}

impl Turns {
    pub(super) fn new(workers: usize) -> Self {
        Self { undecoded: vec![0; workers], worker: 0, left: 0 }
    }

    /// The worker that decodes the next batch: for a run of them the one that had least to do.
    pub(super) fn next(&mut self) -> usize {
        if self.left == 0 {
            let after = self.worker + 1;
            let others = (after..after + self.undecoded.len()).map(|at| at % self.undecoded.len());
            self.worker = others.min_by_key(|worker| self.undecoded[*worker]).unwrap_or_default();
            self.left = RUN_BATCHES;
        }
        self.left -= 1;
        self.undecoded[self.worker] += 1;
        self.worker
    }

    /// A worker has decoded a batch.
    pub(super) fn decoded(&mut self, worker: usize) {
        self.undecoded[worker] -= 1;
    }

    /// True while the workers have enough to do.
    pub(super) fn is_full(&self) -> bool {
        self.undecoded.iter().sum::<usize>() >= UNDECODED_MAX * self.undecoded.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_go_to_who_has_least_to_do() {
        let mut turns = Turns::new(3);
        let run = |turns: &mut Turns| -> Vec<usize> { (0..4).map(|_| turns.next()).collect() };
        assert_eq!(run(&mut turns), [1; 4]);
        assert_eq!(run(&mut turns), [2; 4]);
        assert_eq!(run(&mut turns), [0; 4]);
        turns.decoded(2);
        assert_eq!(run(&mut turns), [2; 4]);
        assert!(!turns.is_full());
        (0..2).for_each(|_| assert_ne!(run(&mut turns), [2; 4]));
        assert!(!turns.is_full());
        turns.next();
        assert!(turns.is_full());
    }

    #[test]
    fn one_worker_gets_all() {
        let mut turns = Turns::new(1);
        assert!((0..8).all(|_| turns.next() == 0));
        assert!(turns.is_full());
        turns.decoded(0);
        assert!(!turns.is_full());
    }
}
