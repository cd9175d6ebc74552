//! Raw events that were never rows make the same files as their rows.

use waterwheel_pipeline::contract::event::{EventBatch, EventMeta, Projection, Slot};
use waterwheel_pipeline::contract::raw::{RawColumns, RawEvents};

use super::*;

/// Everything that can stand in a slot, fitting its column or not.
const SLOTS: [Slot; 15] = [
    Slot::Null,
    Slot::Boolean(true),
    Slot::Integer(-7),
    Slot::Unsigned(u64::MAX),
    Slot::Float(1.5),
    Slot::Float(3.0),
    Slot::Timestamp(1_763_683_200_000_000),
    Slot::Timestamp(-1),
    Slot::Text { start: 0, end: 5 },
    Slot::Text { start: 5, end: 8 },
    Slot::Text { start: 3, end: 3 },
    Slot::Json { start: 8, end: 15 },
    Slot::Scratch { start: 0, end: 6 },
    Slot::ScratchJson { start: 6, end: 8 },
    Slot::Stream,
];

fn events() -> RawEvents {
    let mut projection = Projection::default();
    let columns = RawColumns::project(&mut projection);
    let stride = projection.fields.len();
    let event = |index: usize| EventMeta {
        timestamp_us: 0,
        ordinal: index as u64,
        message: 0,
        late: index.is_multiple_of(3),
    };
    // Every slot holds everything once, and each event another mixture.
    let count = SLOTS.len() * 4;
    let slot = |index: usize| SLOTS[(index / stride + index % stride * (1 + index / 150)) % 15];
    let batch = EventBatch {
        source: 0,
        stream: "EVENTS".into(),
        text: Arc::new("order\0é{\"a\":1}".to_owned()),
        messages: Arc::default(),
        scratch: Arc::new("a\"\n/bc[]".to_owned()),
        stride,
        slots: (0..count * stride).map(slot).collect(),
        events: (0..count).map(event).collect(),
    };
    RawEvents::new(batch, &columns)
}

async fn files_of(settings: &str, changes: Changes) -> BTreeMap<String, Vec<u8>> {
    let mut bench = Bench::raw(settings);
    bench.open(1).await;
    let commit = Commit { progress: progress(1), changes: vec![changes] };
    bench.sink.commit(&commit).await.expect("kept");
    bench.sink.close().await.expect("closed");
    let read = |name: String| {
        let bytes = fs::read(bench.lake().join(&name)).expect("a file");
        (name, bytes)
    };
    bench.visible().into_iter().map(read).collect()
}

#[tokio::test]
async fn events_make_the_files_that_their_rows_make() {
    for settings in ["", "partition = [\"date\", \"event_type\"]", "roll = { rows = 7 }"] {
        let events = events();
        let rows: Vec<Row> = events.rows().collect();
        assert_eq!(rows.len(), 60);
        let from_rows = files_of(settings, Changes::new(rows)).await;
        let changes = Changes { events: vec![events], ..Changes::default() };
        assert_eq!(changes.len(), 60);
        let from_events = files_of(settings, changes).await;
        assert!(!from_rows.is_empty());
        assert!(from_rows == from_events, "{settings}: {:?}", from_rows.keys());
    }
}
