//! Two processes of one pipeline: the newer wins, the older ends with exit code 3 and says why,
//! even if it stood still in the middle of a commit and wakes up later.

use std::time::Duration;

use super::stage::{Stage, advanced};
use super::watch::Points;
use super::{Counts, Options};
use crate::support::proxy::{Cut, Proxy};
use crate::support::waterwheel::{Ending, Waterwheel};

const ROUNDS_AN_EPISODE: usize = 10;
const EVENTS_A_ROUND: usize = 300;

/// With so many rounds, the first takeover before and the first one inside a transaction leave the
/// older one standing for so long. Meanwhile the newer one reads so much.
const MANY: usize = 100;
const LONG: Duration = Duration::from_secs(120);
const EVENTS_OF_LONG: usize = 10_000;

/// Where the older one is when the newer one comes.
#[derive(Clone, Copy, PartialEq)]
enum Moment {
    /// It runs.
    Running,
    /// It stands still somewhere.
    Paused,
    /// It stands still, and a transaction of it is on its way.
    BeforeTransaction,
    /// It stands still inside a transaction of which only the COMMIT is missing: the newer one has
    /// to wait until the server ends that.
    InsideTransaction,
}

/// An instance, and its way to Postgres.
struct Instance {
    running: Waterwheel,
    proxy: Proxy,
}

pub(super) fn scenario(options: &Options) -> Result<Counts, String> {
    let has_long = options.rounds >= MANY;
    let further = if has_long { 2 * EVENTS_OF_LONG } else { 0 };
    let mut stage = Stage::new(options, ROUNDS_AN_EPISODE * EVENTS_A_ROUND * 2 + 8_000 + further);
    let (mut rounds, mut inside) = (0, 0);
    while rounds < options.rounds {
        stage.begin();
        let mut older = start(&mut stage, 0);
        for _ in 0..ROUNDS_AN_EPISODE.min(options.rounds - rounds) {
            let before = stage.points();
            stage.allow(EVENTS_A_ROUND);
            stage.wait_commit(&before, &mut older.running)?;
            let moment = match rounds % 10 {
                0 | 5 => Moment::Running,
                3 => Moment::InsideTransaction,
                1 | 4 | 7 => Moment::BeforeTransaction,
                _ => Moment::Paused,
            };
            inside += usize::from(moment == Moment::InsideTransaction);
            let is_long = has_long && matches!(rounds, 1 | 3);
            let stands = if is_long { LONG } else { Duration::ZERO };
            older = take_over(&mut stage, older, moment, rounds, stands)?;
            rounds += 1;
        }
        older.running.kill();
        stage.finish()?;
    }
    Ok(stage.counts(format!(
        "{rounds} takeovers ({inside} inside a transaction), {rounds} older ones ended with 3"
    )))
}

/// Each instance has a directory of its own by its number of workers.
fn start(stage: &mut Stage, round: usize) -> Instance {
    let proxy = stage.proxy();
    let url = proxy.url_of(stage.database());
    let workers = round as u64 % 3 + 1;
    let running = stage.deployment(workers).set("DATABASE", url).start();
    Instance { running, proxy }
}

/// Lets a newer instance take over; returns it.
fn take_over(
    stage: &mut Stage,
    mut older: Instance,
    moment: Moment,
    round: usize,
    stands: Duration,
) -> Result<Instance, String> {
    let hold = match moment {
        Moment::BeforeTransaction => Some(Cut::HoldBegin),
        Moment::InsideTransaction => Some(Cut::HoldCommit),
        Moment::Running | Moment::Paused => None,
    };
    stage.pass(150);
    if let Some(hold) = hold {
        let struck = older.proxy.struck();
        older.proxy.arm(hold);
        let Instance { running, proxy } = &mut older;
        stage.wait("a transaction is on its way", running, |_| proxy.struck() > struck)?;
    }
    if moment != Moment::Running {
        older.running.signal("STOP");
    }
    let before = stage.look()?;
    let mut newer = start(stage, round + 1);
    stage.allow(EVENTS_A_ROUND);
    // Whose commits they are is not asked of the tables: that the older one can make none there any
    // more is what this is about.
    let went_on = |now: &Points| {
        let is_newer = |sink: usize| now[sink].generation > before[sink].generation;
        advanced(&before, now) == now.len() && is_newer(1) && is_newer(2)
    };
    stage.wait("the newer one has committed", &mut newer.running, went_on)?;
    older.proxy.release();
    if moment != Moment::Running {
        stage.pass(50);
        std::thread::sleep(stands);
        older.running.signal("CONT");
    }
    let ending = stage.wait_end("the older one ends", older.running)?;
    assert_fenced(&ending, round)?;
    Ok(newer)
}

fn assert_fenced(ending: &Ending, round: usize) -> Result<(), String> {
    let is_told = ending.stderr.contains("taken over") && ending.stderr.contains("halted");
    if ending.status.code() != Some(3) || !is_told {
        let Ending { status, stderr, .. } = ending;
        return Err(format!("the older one of takeover {round} ended with {status}: {stderr}"));
    }
    Ok(())
}
