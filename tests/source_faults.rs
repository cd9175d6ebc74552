//! A stream that is no longer the one that was read halts the pipeline, and the sinks keep a prefix
//! of what it was.
//!
//! Each fault is made across a restart and, where it can happen, under a pipeline that runs.

mod stage;

use std::collections::BTreeSet;

use serde_json::Value;

use self::stage::{SharedPostgres, Stage};
use crate::support::rounds;
use crate::support::rounds::Chance;
use crate::support::say;
use crate::support::waterwheel::Ending;

/// More than what a server sends to a reader that stands still: messages, and bytes of each.
const FLOOD: (u64, usize) = (40, 900_000);

/// When the fault happens.
#[derive(Clone, Copy, PartialEq)]
enum Moment {
    /// While no pipeline runs.
    Restart,
    /// Under a pipeline that stands still for so long.
    Running,
}

/// Of what a copy is made, to be put back later.
#[derive(Clone, Copy, PartialEq)]
enum Backup {
    None,
    /// The stream before its first message.
    Empty,
    /// The stream with half of what is read.
    Half,
}

/// A fault that must halt the pipeline.
struct Fault {
    name: &'static str,
    /// What the message must say; of words with `|` between them one.
    words: &'static [&'static str],
    backup: Backup,
    /// `max_msgs` of the stream; -1 for none.
    limit: i64,
    strike: fn(&mut Stage, &mut Chance),
}

impl Fault {
    const fn new(
        name: &'static str,
        words: &'static [&'static str],
        strike: fn(&mut Stage, &mut Chance),
    ) -> Self {
        Self { name, words, backup: Backup::None, limit: -1, strike }
    }

    const fn put_back(mut self, backup: Backup) -> Self {
        self.backup = backup;
        self
    }

    const fn limited(mut self, limit: i64) -> Self {
        self.limit = limit;
        self
    }

    /// Lets it happen again and again; each time the pipeline must halt and say why.
    fn halts(&self, moment: Moment) {
        let postgres = SharedPostgres::start();
        let mut chance = Chance::new();
        let (count, seed) = (rounds(3, 20), chance.seed);
        let when = if moment == Moment::Restart { "across a restart" } else { "while running" };
        println!("source fault `{}` {when}: seed {seed}", self.name);
        for round in 0..count {
            let mut stage = Stage::new(&postgres, round, self.limit);
            let position = chance.between(30, 80);
            if self.backup == Backup::Half {
                stage.publish(position / 2, 0);
            }
            if self.backup != Backup::None {
                stage.copy_store();
            }
            stage.publish(position - stage.last(), 0);
            let mut running = stage.deployment().start();
            stage.wait_committed(position, &mut running);
            let ending = match moment {
                Moment::Running => {
                    running.signal("STOP");
                    (self.strike)(&mut stage, &mut chance);
                    running.signal("CONT");
                    running.wait()
                }
                Moment::Restart => {
                    // A process that was asked to end, and one that was not.
                    if round % 2 == 0 {
                        running.kill();
                    } else {
                        running.terminate();
                    }
                    (self.strike)(&mut stage, &mut chance);
                    stage.deployment().start().wait()
                }
            };
            let what = format!("`{}` {when}, round {round}, seed {seed}", self.name);
            assert_halted(&what, &ending, self.words);
            stage.assert_prefix(&what, position);
        }
        say!("source fault `{}` {when}: {count} of {count} halted", self.name);
    }
}

/// Halted to protect data, with what was found and what to do.
fn assert_halted(what: &str, ending: &Ending, words: &[&str]) {
    let stderr = &ending.stderr;
    assert_eq!(ending.status.code(), Some(3), "{what}: {stderr}");
    for word in words {
        let is_said = word.split('|').any(|word| stderr.contains(word));
        assert!(is_said, "{what}: `{word}` in {stderr}");
    }
    assert!(!help(stderr).is_empty(), "{what}: what to do, in {stderr}");
}

/// What the message tells its reader to do.
fn help(stderr: &str) -> String {
    let lines = stderr.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let helps = lines.filter_map(|line| {
        let help = line.get("help").or_else(|| line.get("fields")?.get("help"))?;
        Some(help.as_str()?.to_owned())
    });
    helps.take(1).collect()
}

const GONE: &[&str] = &["EVENTS", "no longer holds"];
const REPLACED: &[&str] = &["EVENTS", "created again"];
// Found by the source where it goes on from a position, by the replay where it begins anew.
const SHORTER: &[&str] = &["lost messages at its end|its last messages are gone"];
const REWRITTEN: &[&str] = &["EVENTS", "was rewritten|was changed"];

const PURGED: Fault = Fault::new("purged past the position", GONE, |stage, chance| {
    let read = stage.last();
    stage.publish(chance.between(10, 40), 0);
    stage.purge_to(read + chance.between(2, 10));
});

const PURGED_EMPTY: Fault = Fault::new("purged to its end", GONE, |stage, chance| {
    stage.publish(chance.between(1, 40), 0);
    stage.purge_to(stage.last() + 1);
});

const OVERTAKEN: Fault = Fault::new("overtaken by its limits", GONE, |stage, chance| {
    let limit = stage.limit.unsigned_abs();
    stage.publish(limit + chance.between(1, 100), 0);
})
.limited(90);

const FLOODED: Fault = Fault::new("overtaken by its limits", GONE, |stage, chance| {
    stage.limit_to(chance.between(1, 8) as i64);
    stage.publish(FLOOD.0, FLOOD.1);
});

const FLOODED_AND_PURGED: Fault = Fault::new("purged past the position", GONE, |stage, chance| {
    stage.publish(FLOOD.0, FLOOD.1);
    stage.purge_to(stage.last() - chance.between(0, 4));
});

const FLOODED_AND_EMPTIED: Fault = Fault::new("purged to its end", GONE, |stage, _| {
    stage.publish(FLOOD.0, FLOOD.1);
    stage.purge_to(stage.last() + 1);
});

const RECREATED_EMPTY: Fault = Fault::new("recreated and empty", REPLACED, |stage, _| {
    stage.delete();
    stage.make();
});

const RECREATED_SHORTER: Fault = Fault::new("recreated and shorter", REPLACED, |stage, chance| {
    stage.delete();
    stage.make();
    stage.publish_others(chance.between(1, stage.last()));
});

const RECREATED_LONGER: Fault = Fault::new("recreated and longer", REPLACED, |stage, chance| {
    stage.delete();
    stage.make();
    stage.publish_others(stage.last() + chance.between(1, 50));
});

const RECREATED_SAME: Fault = Fault::new("recreated the same", REPLACED, |stage, _| {
    stage.delete();
    stage.make();
    stage.send(0, stage.last(), 0);
});

const ROLLED_BACK: Fault =
    Fault::new("rolled back", SHORTER, |stage, _| stage.put_back()).put_back(Backup::Half);

const ROLLED_BACK_SHORTER: Fault =
    Fault::new("rolled back and then shorter", SHORTER, |stage, chance| {
        stage.put_back();
        stage.publish_others(chance.between(1, stage.last() - stage.last() / 2));
    })
    .put_back(Backup::Half);

const ROLLED_BACK_LONGER: Fault =
    Fault::new("rolled back and then longer", REWRITTEN, |stage, chance| {
        stage.put_back();
        stage.publish_others(stage.last() + chance.between(1, 50));
    })
    .put_back(Backup::Half);

/// With the message under the position's sequence that was there before, at another time.
const ROLLED_BACK_SAME: Fault =
    Fault::new("rolled back and published again", REWRITTEN, |stage, _| {
        stage.put_back();
        let half = stage.last() / 2;
        stage.send(half, stage.last() - half, 0);
    })
    .put_back(Backup::Half);

/// With nothing left under the position's sequence that could be compared.
const ROLLED_BACK_DELETED: Fault =
    Fault::new("rolled back, longer, without the message read last", REWRITTEN, |stage, chance| {
        stage.put_back();
        let read = stage.last();
        stage.publish_others(read - read / 2 + chance.between(1, 50));
        stage.delete_message(read);
    })
    .put_back(Backup::Half);

const REWRITTEN_ALL: Fault = Fault::new("rewritten", REWRITTEN, |stage, chance| {
    stage.put_back();
    stage.publish_others(stage.last() + chance.between(0, 2));
})
.put_back(Backup::Empty);

const TORN: Fault = Fault::new("torn at its end", SHORTER, |stage, _| stage.tear());

const TORN_AND_REUSED: Fault = Fault::new("torn and used again", REWRITTEN, |stage, chance| {
    stage.tear();
    stage.publish_others(chance.between(1, 20));
});

macro_rules! halts {
    ($($name:ident: $fault:ident $moment:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            $fault.halts(Moment::$moment);
        })*
    };
}

halts! {
    purged_past_the_position: PURGED Restart,
    purged_past_the_position_while_running: FLOODED_AND_PURGED Running,
    purged_to_its_end: PURGED_EMPTY Restart,
    purged_to_its_end_while_running: FLOODED_AND_EMPTIED Running,
    overtaken_by_its_limits: OVERTAKEN Restart,
    overtaken_by_its_limits_while_running: FLOODED Running,
    recreated_and_empty: RECREATED_EMPTY Restart,
    recreated_and_empty_while_running: RECREATED_EMPTY Running,
    recreated_and_shorter: RECREATED_SHORTER Restart,
    recreated_and_shorter_while_running: RECREATED_SHORTER Running,
    recreated_and_longer: RECREATED_LONGER Restart,
    recreated_and_longer_while_running: RECREATED_LONGER Running,
    recreated_the_same: RECREATED_SAME Restart,
    recreated_the_same_while_running: RECREATED_SAME Running,
    rolled_back: ROLLED_BACK Restart,
    rolled_back_while_running: ROLLED_BACK Running,
    rolled_back_and_shorter: ROLLED_BACK_SHORTER Restart,
    rolled_back_and_shorter_while_running: ROLLED_BACK_SHORTER Running,
    rolled_back_and_longer: ROLLED_BACK_LONGER Restart,
    rolled_back_and_longer_while_running: ROLLED_BACK_LONGER Running,
    rolled_back_and_published_again: ROLLED_BACK_SAME Restart,
    rolled_back_and_published_again_while_running: ROLLED_BACK_SAME Running,
    rolled_back_without_the_last_read: ROLLED_BACK_DELETED Restart,
    rolled_back_without_the_last_read_while_running: ROLLED_BACK_DELETED Running,
    rewritten: REWRITTEN_ALL Restart,
    rewritten_while_running: REWRITTEN_ALL Running,
    torn_at_its_end: TORN Restart,
    torn_at_its_end_while_running: TORN Running,
    torn_and_used_again: TORN_AND_REUSED Restart,
    torn_and_used_again_while_running: TORN_AND_REUSED Running,
}

/// A message that is deleted by itself before it is read was never there.
#[test]
fn single_messages_deleted_before_they_are_read_are_passed_over() {
    let postgres = SharedPostgres::start();
    let mut chance = Chance::new();
    let (count, seed) = (rounds(3, 20), chance.seed);
    let mut deleted_in_all = 0;
    for round in 0..count {
        let mut stage = Stage::new(&postgres, round, -1);
        let read = stage.read_some(chance.between(30, 80));
        stage.publish(chance.between(10, 40), 0);
        // The last one too: the run ends at a sequence that nobody sends any more.
        let picked = (0..4).map(|_| chance.between(read + 2, stage.last()));
        let deleted: BTreeSet<u64> = picked.chain([stage.last()]).collect();
        deleted.iter().for_each(|sequence| stage.delete_message(*sequence));
        deleted_in_all += deleted.len();
        let what = format!("round {round}, seed {seed}");
        let ending = stage.deployment().set("UNTIL", "end").start().wait();
        assert_eq!(ending.status.code(), Some(0), "{what}: {}", ending.stderr);
        let whole = (1..).zip(stage.original.iter().copied());
        let left: Vec<(u64, u64)> = whole.filter(|(at, _)| !deleted.contains(at)).collect();
        stage.assert_rows(&what, &left, |held| held == left.len());
    }
    say!("source: {deleted_in_all} deleted messages passed over in {count} runs, seed {seed}");
}

/// A sequence to begin with that is not there: before there is progress it is a wrong setting, with
/// progress a loss.
#[test]
fn a_start_that_is_gone_is_refused() {
    let postgres = SharedPostgres::start();
    let mut chance = Chance::new();
    let (count, seed) = (rounds(3, 20), chance.seed);
    for round in 0..count {
        let what = format!("round {round}, seed {seed}");
        let mut stage = Stage::new(&postgres, round, -1);
        stage.publish(chance.between(30, 80), 0);
        let start = chance.between(2, 20);
        // One that was there is a loss; one that never was is a mistake in the deployment.
        for (wrong, code) in [(start, 3), (stage.last() + 2, 4)] {
            stage.purge_to(start + 1);
            let ending = stage.deployment().set("START", wrong.to_string()).start().wait();
            assert_eq!(ending.status.code(), Some(code), "{what}: {}", ending.stderr);
            assert!(ending.stderr.contains("`start` is"), "{what}: {}", ending.stderr);
            assert!(!help(&ending.stderr).is_empty(), "{what}: {}", ending.stderr);
            let rows = stage.query("select count(*) from events").unwrap_or_default();
            assert!(["", "0"].contains(&rows.trim()), "{what}: nothing was written");
        }
        // The first that is there is a beginning; once it has been read it must not go.
        let deployment = stage.deployment().set("START", (start + 1).to_string());
        let mut running = deployment.start();
        stage.wait_committed(stage.last(), &mut running);
        running.kill();
        let read = stage.last();
        stage.publish(chance.between(10, 40), 0);
        stage.purge_to(read + 3);
        assert_halted(&what, &deployment.start().wait(), GONE);
        let from_start = (1..).zip(stage.original.iter().copied()).skip(start as usize);
        let whole: Vec<(u64, u64)> = from_start.collect();
        stage.assert_rows(&what, &whole, |held| held >= (read - start) as usize);
    }
    say!("source: {count} times a start that is gone was refused, seed {seed}");
}

/// A message that was counted and is deleted later was counted all the same.
#[test]
fn single_messages_deleted_after_they_are_read_stay_counted() {
    let postgres = SharedPostgres::start();
    let mut chance = Chance::new();
    let (count, seed) = (rounds(3, 20), chance.seed);
    let mut halted = 0;
    for round in 0..count {
        let mut stage = Stage::new(&postgres, round, -1);
        let read = stage.read_some(chance.between(30, 80));
        stage.delete_message(chance.between(2, read));
        stage.publish(chance.between(10, 40), 0);
        let what = format!("round {round}, seed {seed}");
        let ending = stage.deployment().set("UNTIL", "end").start().wait();
        match ending.status.code() {
            // It may refuse, as long as nothing wrong was written.
            Some(3) => {
                halted += 1;
                stage.assert_prefix(&what, read);
            }
            Some(0) => stage.assert_prefix(&what, stage.last()),
            _ => panic!("{what}: {}: {}", ending.status, ending.stderr),
        }
    }
    assert_eq!(halted, count, "the replay cannot be what the sinks have seen");
    say!("source: {count} runs after a message that was read is deleted, seed {seed}");
}

/// What is gone is gone on without only where it is named, to the message; and named once.
#[test]
fn a_gap_that_is_accepted_is_gone_on_without() {
    let postgres = SharedPostgres::start();
    let mut chance = Chance::new();
    let (count, seed) = (rounds(3, 20), chance.seed);
    for round in 0..count {
        let what = format!("round {round}, seed {seed}");
        let mut stage = Stage::new(&postgres, round, -1);
        stage.publish(chance.between(30, 80), 0);
        let read = stage.last();
        // A run that ends in order leaves a checkpoint of all that it has read.
        let deployment = stage.saving_deployment().set("UNTIL", "end");
        assert_eq!(deployment.start().wait().status.code(), Some(0), "{what}");
        stage.publish(chance.between(20, 40), 0);
        let first_left = read + chance.between(3, 15);
        stage.purge_to(first_left);
        assert_halted(&what, &deployment.start().wait(), GONE);
        // Less than what is missing, and another place.
        let (from, to) = (read + 1, first_left - 1);
        for wrong in [(from, to - 1), (from + 1, to), (1, 2)] {
            let range = format!("{}..{}", wrong.0, wrong.1);
            let refused = deployment.command_with("run", &["--accept-gap", &range]).wait();
            assert_eq!(refused.status.code(), Some(3), "{what}, {range}: {}", refused.stderr);
            stage.assert_prefix(&what, read);
        }
        let range = format!("events:{from}..{to}");
        let accepted = deployment.command_with("run", &["--accept-gap", &range]).wait();
        assert_eq!(accepted.status.code(), Some(0), "{what}: {}", accepted.stderr);
        let gaps = "select positions->'events'->'gaps' from waterwheel.progress";
        let recorded: Value = serde_json::from_str(stage.query(gaps).unwrap().trim()).unwrap();
        assert!(!recorded.as_array().unwrap().is_empty(), "{what}: the gap is in the progress");
        // It need not be said again.
        stage.publish(chance.between(5, 20), 0);
        let again = deployment.start().wait();
        assert_eq!(again.status.code(), Some(0), "{what}: {}", again.stderr);
        let whole = (1..).zip(stage.original.iter().copied());
        let left: Vec<(u64, u64)> = whole.filter(|(at, _)| !(from..=to).contains(at)).collect();
        stage.assert_rows(&what, &left, |held| held == left.len());
    }
    say!("source: {count} gaps accepted, {} wrong ranges refused, seed {seed}", count * 3);
}
