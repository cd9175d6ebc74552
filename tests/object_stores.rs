//! Checkpoints and a Parquet sink in an object store: whatever is killed, taken over, cut off or
//! damaged, the bucket holds every row once.

use std::time::Duration;

use tempfile::TempDir;

use crate::support::rounds;
use crate::support::s3_server::{S3Server, SECRET};
use crate::support::say;
use crate::support::wait_until;
use crate::support::waterwheel::Deployment;

mod stage;

use stage::{STAGING, Stage, assert_no_secret};

#[test]
fn kills_lose_nothing() {
    let kills = rounds(15, 300);
    let mut stage = Stage::new(kills * 250 + 2_000);
    let (mut counted, mut done, mut resumed) = (0, 0, 0);
    while counted < kills {
        let before = stage.commits();
        stage.allow(100);
        let mut running = stage.start();
        // Some kills hit the start and the replay; others come when there may be a checkpoint.
        match stage.chance.between(0, 10) {
            0..2 => {}
            2..6 => stage.wait_entries(before, 2, &mut running),
            _ => stage.wait_entries(before, 4, &mut running),
        }
        stage.pass(300);
        running.assert_running();
        let ending = running.kill();
        assert_no_secret(&ending);
        done += 1;
        resumed += usize::from(ending.stderr.contains("going on from a checkpoint"));
        counted += usize::from(stage.commits() > before + 1);
    }
    stage.finish();
    say!(
        "kills on S3: {done} cycles, {counted} counted, {resumed} went on from a checkpoint, 0 \
         lost, 0 doubled of {} events, {} commits, seed {}",
        stage.payloads.len(),
        stage.commits(),
        stage.chance.seed
    );
    assert!(resumed > 0, "no run went on from a checkpoint");
}

#[test]
fn crashes_at_every_step_lose_nothing() {
    // The n-th time that a point is reached: the first entry is the claim, which has no files.
    let points = [
        ("parquet.claimed", 1),
        ("parquet.rows.kept", 2),
        ("parquet.staging.synced", 1),
        ("parquet.manifest.written", 2),
        ("parquet.manifest.linked", 1),
        ("parquet.manifest.linked", 2),
        ("parquet.file.visible", 1),
        ("parquet.file.visible", 6),
        ("parquet.commit.done", 2),
        ("checkpoint.segment.durable", 2),
        ("checkpoint.manifest.durable", 1),
        ("checkpoint.manifest.deleted", 1),
        ("checkpoint.segment.deleted", 1),
    ];
    let rounds = rounds(1, 20);
    let mut stage = Stage::new(rounds * 3_500 + 2_000);
    let (mut crashes, mut strays) = (0, 0);
    for _ in 0..rounds {
        for (point, count) in points {
            stage.crash(point, count);
            crashes += 1;
        }
        // Files that were never committed, and one of an instance that is newer.
        stage.crash("parquet.staging.synced", 1);
        let newer = format!("{STAGING}part-trading.tables-9999999999-0000000001-0001.parquet.tmp");
        // It stays there from round to round.
        let mut staged = stage.s3.names(STAGING);
        staged.retain(|name| *name != newer);
        assert!(!staged.is_empty(), "no file was left behind");
        strays += staged.len();
        stage.s3.copy(&staged[0], &newer);
        stage.crash("parquet.stray.removed", 1);
        stage.crash("parquet.claimed", 1);
        let before = stage.commits();
        let mut running = stage.start();
        stage.wait_entries(before, 2, &mut running);
        running.kill();
        let left = stage.s3.names(STAGING);
        assert!(left.contains(&newer), "a newer instance's file is gone: {left:?}");
        assert!(staged.iter().all(|stray| !left.contains(stray)), "strays are left: {left:?}");
        // Files that were committed, and are not visible yet.
        stage.crash("parquet.manifest.linked", 2);
        stage.crash("parquet.file.published", 1);
        crashes += 5;
    }
    stage.finish();
    let left = stage.s3.names(STAGING);
    assert_eq!(left.len(), 1, "strays are left beside that of the newer one: {left:?}");
    say!(
        "crashes on S3: {crashes} crashes at {} points, {strays} strays collected, 0 lost, 0 \
         doubled of {} events, seed {}",
        points.len() + 2,
        stage.payloads.len(),
        stage.chance.seed
    );
}

#[test]
fn a_newer_instance_takes_over() {
    let takeovers = rounds(8, 80);
    let mut stage = Stage::new(takeovers * 500 + 1_000);
    let mut older = stage.deployment(1).start();
    let mut held = 0;
    for round in 0..takeovers {
        let before = stage.commits();
        stage.allow(100);
        stage.wait_entries(before, 2, &mut older);
        // What of the older one is on its way when it stands still.
        let on_its_way = [None, Some("/log/commit-"), None, Some("/staging/part-")][round % 4];
        let is_paused = round % 4 > 0;
        if let Some(word) = on_its_way {
            stage.s3.hold(word);
            wait_until("a write is on its way", || {
                older.assert_running();
                stage.s3.is_held()
            });
            held += 1;
        } else {
            stage.pass(200);
        }
        if is_paused {
            older.signal("STOP");
        }
        let before = stage.commits();
        let mut newer = stage.deployment(round as u64 % 2 + 2).start();
        stage.allow(100);
        if is_paused {
            // The claim: from here on nothing of the older one counts.
            stage.wait_entries(before, 1, &mut newer);
            stage.s3.release();
            stage.wait_entries(before, 3, &mut newer);
            older.signal("CONT");
        }
        let ending = older.wait();
        assert_eq!(ending.status.code(), Some(3), "takeover {round}: {}", ending.stderr);
        assert!(ending.stderr.contains("taken over"), "{}", ending.stderr);
        assert_no_secret(&ending);
        stage.assert_fenced();
        older = newer;
    }
    assert_no_secret(&older.kill());
    stage.finish();
    assert_eq!(stage.s3.names(STAGING), Vec::<String>::new(), "strays");
    say!(
        "two instances on S3: {takeovers} takeovers ({held} with a write on its way), {takeovers} \
         older ones ended with 3, 0 lost, 0 doubled, seed {}",
        stage.chance.seed
    );
}

#[test]
fn a_store_that_is_down_is_waited_for() {
    const CAUSE: &str = "no answer from the store of";
    let outages = rounds(1, 10);
    let mut stage = Stage::new(outages * 5_000 + 3_000);
    // Rows wait for their file when the store goes away.
    stage.roll = "400ms";
    let mut running = stage.deployment(2).start();
    for round in 0..outages {
        let before = stage.commits();
        stage.allow(400);
        stage.wait_entries(before, 2, &mut running);
        stage.pass(400);
        let heard = running.said().len();
        stage.s3.down();
        stage.allow(3_000);
        wait_until("the store is missed", || {
            running.assert_running();
            running.said()[heard..].contains(CAUSE)
        });
        std::thread::sleep(Duration::from_secs(3));
        let said = running.said()[heard..].to_owned();
        let told = said.lines().filter(|line| line.contains(CAUSE)).count();
        // The sink, and the writer of checkpoints.
        assert!((1..=3).contains(&told), "round {round}: told {told} times: {said}");
        let before = stage.commits();
        stage.s3.up();
        stage.wait_entries(before, 2, &mut running);
    }
    // What lasts shorter is not worth a word.
    let (heard, before) = (running.said().len(), stage.commits());
    stage.s3.be_busy(3, "/");
    stage.s3.lose_answers(3);
    stage.allow(300);
    stage.wait_entries(before, 2, &mut running);
    let said = running.said()[heard..].to_owned();
    let ending = running.terminate();
    assert_eq!(ending.status.code(), Some(0), "{}", ending.stderr);
    assert_no_secret(&ending);
    assert!(!said.contains(CAUSE), "{said}");
    stage.finish();
    say!(
        "a store that was down: {outages} outages, 0 lost, 0 doubled of {} events, seed {}",
        stage.payloads.len(),
        stage.chance.seed
    );
}

#[test]
fn a_write_that_fails_is_not_taken_for_done() {
    let mut stage = Stage::new(5_000);
    let mut running = stage.deployment(2).start();
    // A file, the entry that commits it, and the copy that makes it visible.
    for word in ["/staging/part-", "/log/commit-", "/tables/events/date"] {
        let before = stage.commits();
        stage.wait_entries(before, 2, &mut running);
        let heard = running.said().len();
        // All attempts of one request.
        stage.s3.be_busy(9, word);
        stage.allow(100);
        wait_until("the failure is told", || {
            running.assert_running();
            running.said()[heard..].contains("does not serve: SlowDown")
        });
        let before = stage.commits();
        stage.wait_entries(before, 2, &mut running);
    }
    let ending = running.terminate();
    assert_eq!(ending.status.code(), Some(0), "{}", ending.stderr);
    assert_no_secret(&ending);
    stage.finish();
    assert_eq!(stage.s3.names(STAGING), Vec::<String>::new(), "strays");
}

#[test]
fn memory_is_bounded_while_a_store_is_down() {
    const TEXT: &str = "name = \"p\"\n[engine]\nworkers = 1\n\
        checkpoint = { path = \"s3://lake/state\", every = \"1s\" }\n\
        [sources.numbers]\ntype = \"generate\"\n\
        [sinks.lake]\ntype = \"parquet\"\nfrom = [\"numbers\"]\npath = \"s3://lake/x\"\n\
        roll = { rows = 100_000, every = \"1m\" }\n";
    let (s3, directory) = (S3Server::start(), TempDir::new().unwrap());
    let deployment = s3.known_to(Deployment::new(directory.path(), TEXT));
    let mut running = deployment.start();
    let commits = || s3.names("x/_waterwheel/p.lake/log/").len();
    // The claim, and rows.
    wait_until("something is committed", || commits() > 2);
    s3.down();
    wait_until("the store is missed", || running.said().contains("no answer from the store of"));
    // Whatever there is room for comes, and then nothing.
    let mut bytes = Vec::new();
    let is_level = |bytes: &[u64]| match bytes {
        [.., before, _, _, now] => now.saturating_sub(*before) < 1 << 20,
        _ => false,
    };
    wait_until("memory stays as it is", || {
        std::thread::sleep(Duration::from_secs(1));
        running.assert_running();
        bytes.push(running.resident_bytes());
        is_level(&bytes)
    });
    let most = bytes.iter().max().unwrap() >> 20;
    assert!(most < 1024, "{most} MiB");
    s3.up();
    let before = commits();
    wait_until("it goes on", || commits() > before + 2);
    let ending = running.terminate();
    assert_eq!(ending.status.code(), Some(0), "{}", ending.stderr);
    assert_no_secret(&ending);
    say!("a store that is down under 100,000s of events a second: {most} MiB at most");
}

#[test]
fn a_damaged_checkpoint_is_passed_over() {
    let mut stage = Stage::new(6_000);
    let manifests = |stage: &Stage| {
        let names = stage.s3.names("state/trading/");
        names.into_iter().filter(|name| name.ends_with(".manifest")).collect::<Vec<_>>()
    };
    for (kind, told) in [("manifest", "is damaged"), ("segment", "is not what was written")] {
        let mut running = stage.deployment(2).start();
        let newest = manifests(&stage).pop();
        wait_until("there are newer checkpoints", || {
            running.assert_running();
            let all = manifests(&stage);
            all.iter().filter(|name| Some(*name) > newest.as_ref()).count() > 1
        });
        assert_eq!(running.terminate().status.code(), Some(0));
        let kept = manifests(&stage);
        assert!(kept.len() <= 3, "three are kept: {kept:?}");
        let names = stage.s3.names("state/trading/");
        let newest = names.iter().filter(|name| name.ends_with(kind)).max().unwrap();
        stage.s3.damage(newest);
        let before = stage.commits();
        let mut running = stage.deployment(1).start();
        stage.wait_entries(before, 2, &mut running);
        let ending = running.terminate();
        assert_no_secret(&ending);
        let said = ending.stderr;
        assert!(said.contains(told), "{said}");
        assert!(said.contains("trying the one before"), "{said}");
        assert!(said.contains("going on from a checkpoint"), "{said}");
    }
    stage.finish();
}

#[test]
fn what_waiting_cannot_mend_is_said() {
    let stage = Stage::new(10);
    // Where everything is told, too.
    let refused = stage.deployment(1).set("AWS_ACCESS_KEY_ID", "SOMEBODYELSE");
    let refused = refused.set("RUST_LOG", "trace").start().wait();
    assert_eq!(refused.status.code(), Some(4), "{}", refused.stderr);
    assert!(refused.stderr.contains("InvalidAccessKeyId"), "{}", refused.stderr);
    assert_no_secret(&refused);

    let text = "name = \"p\"\n[sources.numbers]\ntype = \"generate\"\ncount = 10\n[sinks.lake]\n\
                type = \"parquet\"\nfrom = [\"numbers\"]\n";
    let deployment = |path: &str| {
        let text = format!("{text}path = \"{path}\"\n");
        stage.s3.known_to(Deployment::new(&stage.directory.path().join("other"), &text))
    };
    let check = |path: &str| deployment(path).command_with("check", &["--connect"]).wait();
    let nowhere = deployment("s3://nowhere/x").start().wait();
    assert_eq!(nowhere.status.code(), Some(4), "{}", nowhere.stderr);
    assert!(nowhere.stderr.contains("there is no bucket"), "{}", nowhere.stderr);
    let checked = check("s3://nowhere/x");
    assert_eq!(checked.status.code(), Some(1), "{}", checked.stderr);
    assert!(checked.stderr.contains("there is no bucket"), "{}", checked.stderr);
    let checked = check("s3://lake/x");
    assert_eq!(checked.status.code(), Some(0), "{}", checked.stderr);
    assert_eq!(stage.s3.names("x"), Vec::<String>::new(), "nothing is left behind");

    let far = |path: &str| {
        deployment(path).set("AWS_ENDPOINT_URL", "http://s3.example.com").command("check").wait()
    };
    let plain = far("s3://lake/x");
    assert_eq!(plain.status.code(), Some(1), "{}", plain.stderr);
    assert!(plain.stderr.contains("without TLS"), "{}", plain.stderr);
    let wanted = far("s3://lake/x\"\ninsecure = true\n# \"");
    assert_eq!(wanted.status.code(), Some(0), "{}", wanted.stderr);
}

#[test]
fn stores_are_known_by_their_environment() {
    let directory = TempDir::new().unwrap();
    let check = |path: &str, variables: &[(&str, &str)]| {
        let text = format!(
            "name = \"p\"\n[engine]\ncheckpoint = {{ path = \"{path}/state\" }}\n[sources.numbers]\n\
             type = \"generate\"\ncount = 10\n[sinks.lake]\ntype = \"parquet\"\n\
             from = [\"numbers\"]\npath = \"{path}\"\n"
        );
        let mut deployment = Deployment::new(directory.path(), &text);
        for (name, value) in variables {
            deployment = deployment.set(name, *value);
        }
        let ending = deployment.command("check").wait();
        assert_no_secret(&ending);
        (ending.status.code(), ending.stderr)
    };
    let s3 = [("AWS_ACCESS_KEY_ID", "A"), ("AWS_SECRET_ACCESS_KEY", SECRET)];
    let (code, said) = check("s3://lake/x", &s3);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = check("s3://lake/x", &s3[..1]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("the object store cannot be used"), "{said}");
    let (code, said) = check("gs://lake/x", &[("GOOGLE_SKIP_SIGNATURE", "true")]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("`gs://` is written to as `s3://` is, but"), "{said}");
    let key = "Y2FuYXJ5LW9mLXRoZS1vYmplY3Qtc3RvcmU=";
    let azure = [("AZURE_STORAGE_ACCOUNT_NAME", "acme"), ("AZURE_STORAGE_ACCOUNT_KEY", key)];
    let (code, said) = check("az://lake/x", &azure);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("`az://` is written to as `s3://` is, but"), "{said}");
    assert!(!said.contains(key), "{said}");
}
