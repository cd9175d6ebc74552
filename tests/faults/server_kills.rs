//! `kill -9` of nats-server and of Postgres under a pipeline that stays up.

use std::fs;
use std::time::{Duration, Instant};

use super::stage::{Stage, advanced};
use super::{Counts, Options};
use crate::support::postgres::Postgres;
use crate::support::wait_until;
use crate::support::waterwheel::Waterwheel;

const KILLS_AN_EPISODE: usize = 30;
const EVENTS_A_KILL: usize = 150;

/// For every two kills of nats-server (a restart takes milliseconds) one of Postgres (a second), and
/// no more of these than so many.
const POSTGRES_MOST: usize = 60;

/// With so many kills, the first of each server leaves it away for so long.
const MANY: usize = 100;
const LONG: Duration = Duration::from_secs(60);

pub(super) fn scenario(options: &Options) -> Result<Counts, String> {
    let mut stage = Stage::new(options, KILLS_AN_EPISODE * EVENTS_A_KILL * 2 + 12_000);
    let of_postgres = (options.rounds / 2).clamp(1, POSTGRES_MOST);
    let (mut nats_left, mut postgres_left) = (options.rounds, of_postgres);
    let (mut after_nats, mut after_postgres) = (Vec::new(), Vec::new());
    while nats_left + postgres_left > 0 {
        stage.begin();
        let mut running = stage.start();
        for _ in 0..KILLS_AN_EPISODE.min(nats_left + postgres_left) {
            let before = stage.points();
            stage.allow(EVENTS_A_KILL);
            stage.wait_commit(&before, &mut running)?;
            stage.pass(100);
            let draw = stage.chance.between(0, (nats_left + postgres_left) as u64);
            let is_nats = (draw as usize) < nats_left;
            let is_first =
                if is_nats { nats_left == options.rounds } else { postgres_left == of_postgres };
            let away = if is_first && options.rounds >= MANY { LONG } else { Duration::ZERO };
            if is_nats {
                stage.nats.kill();
                std::thread::sleep(away);
                stage.nats.restart();
                nats_left -= 1;
            } else {
                kill_family(&stage.postgres)?;
                std::thread::sleep(away);
                stage.postgres.restart().map_err(|error| error.to_string())?;
                postgres_left -= 1;
            }
            // From when the server is there again until all sinks have gone on.
            let (restarted, before) = (Instant::now(), stage.points());
            stage.wait("all sinks have gone on", &mut running, |now| {
                advanced(&before, now) == before.len()
            })?;
            let pauses = if is_nats { &mut after_nats } else { &mut after_postgres };
            pauses.push(restarted.elapsed());
            still_up(&mut running)?;
        }
        let before = stage.points();
        stage.wait_commit(&before, &mut running)?;
        let ending = running.terminate();
        if !ending.status.success() {
            return Err(format!("it did not stay up: {}: {}", ending.status, ending.stderr));
        }
        stage.finish()?;
    }
    Ok(stage.counts(format!(
        "{} kills of nats-server (going on after {}), {of_postgres} of postgres ({}), all counted",
        options.rounds,
        spread(after_nats),
        spread(after_postgres)
    )))
}

/// The median and the largest of some times.
fn spread(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |index: usize| times.get(index).copied().unwrap_or_default();
    format!("{:.1?}, at most {:.1?}", at(times.len() / 2), at(times.len().saturating_sub(1)))
}

fn still_up(running: &mut Waterwheel) -> Result<(), String> {
    if running.has_ended() {
        return Err(format!("waterwheel ended with its server: {}", running.said()));
    }
    Ok(())
}

/// Ends the server and all of its processes as the loss of the machine does.
fn kill_family(postgres: &Postgres) -> Result<(), String> {
    let parent = postgres.pid().ok_or("postgres does not run")?;
    // It must not start another process meanwhile.
    signal("STOP", &[parent]);
    let mut family = vec![parent];
    for entry in fs::read_dir("/proc").map_err(|error| error.to_string())?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else { continue };
        if state_and_parent(pid).is_some_and(|(_, of)| of == parent) {
            family.push(pid);
        }
    }
    if family.len() < 2 {
        return Err("postgres has no processes".to_owned());
    }
    signal("KILL", &family);
    // The server does not start while one of them still has the shared memory.
    let is_gone = |pid: &u32| state_and_parent(*pid).is_none_or(|(state, _)| state == "Z");
    wait_until("the processes of postgres are gone", || family.iter().all(is_gone));
    Ok(())
}

fn state_and_parent(pid: u32) -> Option<(String, u32)> {
    // `pid (name) state parent ...`
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut words = text.rsplit(") ").next()?.split(' ');
    Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
}

fn signal(name: &str, family: &[u32]) {
    let pids: Vec<String> = family.iter().map(u32::to_string).collect();
    // One of them may have ended by itself.
    let kill = format!("kill -{name} {}", pids.join(" "));
    let _ = std::process::Command::new("sh").arg("-c").arg(kill).status();
}
