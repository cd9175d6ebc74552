//! What `retain` removes from a lake, and what it leaves, wherever it is interrupted.

use std::collections::BTreeSet;

use object_store::memory::InMemory;
use waterwheel_pipeline::contract::bucket::Bucket;
use waterwheel_pipeline::contract::retain::{Cleaned, add_up};

use super::*;

const SETTINGS: &str =
    "partition = [\"date\", \"event_type\"]\nretain = \"2d\"\nroll = { rows = 1 }";

async fn clean(sink: &mut ParquetSink) -> Result<Vec<Cleaned>, Fault> {
    let mut removed = Vec::new();
    for _ in 0..100 {
        let step = sink.clean().await?;
        add_up(&mut removed, step.removed);
        if step.is_done {
            return Ok(removed);
        }
    }
    panic!("cleaning has no end: {removed:?}");
}

/// A commit of one event a day, with the watermark at the end of a day.
fn days(epoch: u64, days: std::ops::RangeInclusive<u64>, watermark: &str) -> Commit {
    let row =
        |day| raw(&format!("{day:03}"), "order.filled", &format!("2026-11-{day:02}T10:00:00Z"));
    let changes = vec![Changes::new(days.map(row).collect())];
    let mut progress = progress(epoch);
    let micros = if watermark == "final" { i64::MAX } else { micros(watermark) };
    progress.record.watermarks.insert("events".to_owned(), micros);
    Commit { progress, changes }
}

#[tokio::test]
async fn whole_directories_go_and_nothing_else() {
    let mut bench = Bench::raw(SETTINGS);
    bench.open(1).await;
    bench.sink.commit(&days(1, 1..=9, "2026-11-05T00:00:00Z")).await.expect("written");
    // A stranger's file, and directories that are of no day.
    let old = bench.lake().join("events/date=2026-11-01");
    fs::write(old.join("theirs.parquet"), "x").expect("written");
    fs::create_dir_all(bench.lake().join("events/date=2026-10-01/sub")).expect("made");
    fs::write(bench.lake().join("events/date=2026-10-01/sub/notes.txt"), "x").expect("written");
    let removed = clean(&mut bench.sink).await.expect("cleaned");
    let [removed] = removed.as_slice() else { panic!("{removed:?}") };
    assert_eq!((removed.partitions, removed.files, removed.rows), (2, 2, None));
    assert_eq!(removed.before_us, micros("2026-11-03T00:00:00Z"));
    let left = |bench: &Bench| -> Vec<String> {
        let visible = bench.visible().into_iter();
        visible.filter(|file| file.contains("/part-")).map(|file| file[7..22].to_owned()).collect()
    };
    let from = |day: u64| (day..=9).map(|day| format!("date=2026-11-{day:02}")).collect::<Vec<_>>();
    assert_eq!(left(&bench), from(3));
    assert!(old.join("theirs.parquet").exists(), "a stranger's file stays");
    assert!(!bench.lake().join("events/date=2026-11-02").exists(), "an empty directory goes");
    assert_eq!(clean(&mut bench.sink).await.expect("cleaned"), []);

    // A moment before the day is over, it stays. What comes late goes the next time.
    let late = days(2, 2..=2, "2026-11-05T23:59:59.999999Z");
    bench.sink.commit(&late).await.expect("written");
    assert_eq!(clean(&mut bench.sink).await.expect("cleaned")[0].files, 1);
    assert_eq!(left(&bench), from(3));
    // The stream has ended: the first moment of the newest day counts.
    bench.sink.commit(&days(3, 9..=9, "final")).await.expect("written");
    clean(&mut bench.sink).await.expect("cleaned");
    assert_eq!(left(&bench)[0], "date=2026-11-07");
    // The next instance reads the log as ever.
    assert_eq!(bench.again().open(2).await, Some(3));
}

#[tokio::test]
async fn whoever_is_no_instance_cleans_beside_the_one_that_runs() {
    let mut running = Bench::raw(SETTINGS);
    assert_eq!(clean(&mut running.again().sink).await.expect("cleaned"), [], "nothing is there");
    running.open(1).await;
    running.sink.commit(&days(1, 1..=9, "2026-11-05T00:00:00Z")).await.expect("written");
    // Rows wait in files that grow, whose names tell the number of the next entry.
    let mut waits = days(2, 9..=9, "2026-11-06T00:00:00Z");
    waits.changes[0].upserts.clear();
    running.sink.commit(&waits).await.expect("kept");
    for round in 0..3 {
        let mut beside = running.again();
        let removed = clean(&mut beside.sink).await.expect("cleaned");
        assert_eq!(removed.len(), usize::from(round != 1), "{removed:?}");
        // The running one goes on, and nothing of it is lost.
        let day = 10 + round;
        let watermark = format!("2026-11-{:02}T00:00:00Z", 5 + round);
        let commit = days(3 + round, day..=day, &watermark);
        running.sink.commit(&commit).await.expect("the instance was not fenced off");
        if round == 0 {
            clean(&mut running.sink).await.expect("cleaned");
        }
    }
    let seen: BTreeSet<String> = running.ids().into_iter().collect();
    assert_eq!(seen.first().map(String::as_str), Some("004"), "{seen:?}");
    assert!(seen.contains("012"), "{seen:?}");
    let entries = running.owned().log.entries().expect("read");
    let epochs = entries.iter().filter_map(|entry| Some(entry.progress.as_ref()?.record.epoch));
    assert!(epochs.is_sorted(), "the progress never goes back");

    // A newer one takes over: the older removes nothing.
    let before = running.visible();
    let mut newer = running.again();
    newer.open(2).await;
    newer.sink.commit(&days(9, 20..=20, "2026-11-30T00:00:00Z")).await.expect("written");
    let fault = clean(&mut running.sink).await.expect_err("fenced");
    assert_eq!(fault.remedy, Remedy::Halt, "{fault}");
    assert_eq!(running.visible().len(), before.len() + 1);
    let mut other = running.again();
    other.sink.expect("another");
    let fault = clean(&mut other.sink).await.expect_err("a halt");
    assert!(fault.message.contains("another deployment"), "{fault}");
}

/// What a reader of the log may expect to be there: committed files, but for those noted as removed.
fn listed(bench: &mut Bench) -> BTreeSet<String> {
    let entries = bench.owned().log.entries().expect("read");
    let removed: BTreeSet<&String> = entries.iter().flat_map(|entry| &entry.removed).collect();
    let files = entries.iter().flat_map(|entry| &entry.files).map(|file| &file.path);
    files.filter(|file| !removed.contains(file)).cloned().collect()
}

#[tokio::test]
async fn what_a_crash_left_is_removed_by_the_next_start() {
    let mut bench = Bench::raw(SETTINGS);
    bench.open(1).await;
    bench.sink.commit(&days(1, 1..=9, "2026-11-05T00:00:00Z")).await.expect("written");
    let all = bench.visible();
    // The note is written, and one of two files is gone.
    let plan = Arc::clone(&bench.plan);
    let old = all[..2].to_vec();
    let noted = bench.owned().log.note_removed(|_| Ok(old.clone())).expect("noted");
    assert_eq!(noted, Some(old.clone()));
    plan.store.remove_below(&old[..1]).expect("removed");
    let expected: BTreeSet<String> = all[2..].iter().cloned().collect();
    assert_eq!(listed(&mut bench), expected, "a reader of the log misses nothing");

    let mut next = bench.again();
    next.open(2).await;
    assert_eq!(next.visible(), all[2..]);
    next.sink.commit(&days(2, 10..=10, "2026-11-05T00:00:00Z")).await.expect("written");
    assert_eq!(next.owned().log.removed(), <&[String]>::default(), "the note is done with");
    assert!(listed(&mut next).is_subset(&next.visible().into_iter().collect()));
}

#[tokio::test]
async fn in_a_bucket_it_is_the_same() {
    let store = Arc::new(InMemory::new());
    let bench = Bench::raw(SETTINGS);
    let Plan { label, inputs, emit, roll_rows, roll_every, .. } = &*bench.plan;
    let plan = Arc::new(Plan {
        store: Store::Bucket(Bucket::new(store.clone(), "lake", "s3://b/lake")),
        label: label.clone(),
        inputs: Arc::clone(inputs),
        emit: *emit,
        roll_rows: *roll_rows,
        roll_every: *roll_every,
    });
    let mut running = sink(&plan, &bench.now_us);
    running.open(1).await.expect("a claim");
    running.commit(&days(1, 1..=9, "2026-11-05T00:00:00Z")).await.expect("written");
    let removed = clean(&mut sink(&plan, &bench.now_us)).await.expect("cleaned");
    assert_eq!((removed[0].files, removed[0].partitions), (2, 2));
    running.commit(&days(2, 10..=10, "2026-11-06T00:00:00Z")).await.expect("written");
    assert_eq!(clean(&mut running).await.expect("cleaned")[0].files, 1);
    let mut days: Vec<String> = plan.store.files("events").expect("listed");
    days.sort();
    assert_eq!(days.len(), 7, "{days:?}");
    assert!(days[0].contains("date=2026-11-04"), "{days:?}");
}
