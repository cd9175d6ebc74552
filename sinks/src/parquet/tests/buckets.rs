//! The sink in a bucket, of which any one request goes wrong: the process dies around it, its answer
//! is lost, or it is carried out only later, when nobody expects it any more. Whatever happens, the
//! bucket holds whole commits, nothing else, and no less than was promised.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path as Name;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use waterwheel_pipeline::contract::bucket::Bucket;

use super::*;

const COMMITS: u64 = 3;
const ROWS: usize = 3;

/// What goes wrong, at one of the requests that change something.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// It is not carried out.
    Refused,
    /// It is carried out, and nobody hears of it.
    Unheard,
    /// It is carried out after so many further requests.
    Late(usize),
}

/// A store in memory where one request has a fate.
#[derive(Clone, Debug)]
struct Unlucky(Arc<Requests>);

#[derive(Debug)]
struct Requests {
    inner: Arc<InMemory>,
    requests: AtomicUsize,
    at: usize,
    fate: Fate,
    /// The process ends with that request: what it asks for later is not carried out either.
    dies: AtomicBool,
    late: Mutex<Option<(usize, Change)>>,
}

#[derive(Clone, Debug)]
enum Change {
    Put(Name, PutPayload, PutOptions),
    Copy(Name, Name, CopyOptions),
    Delete(Name),
}

impl fmt::Display for Unlucky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unlucky")
    }
}

fn lost() -> Error {
    Error::Generic { store: "unlucky", source: "the answer is lost".into() }
}

impl Requests {
    fn new(inner: &Arc<InMemory>, at: usize, fate: Fate, dies: bool) -> Arc<Self> {
        let (inner, requests) = (inner.clone(), AtomicUsize::new(0));
        let (dies, late) = (AtomicBool::new(dies), Mutex::default());
        Arc::new(Self { inner, requests, at, fate, dies, late })
    }

    fn is_dead(&self) -> bool {
        self.dies.load(Ordering::Relaxed) && self.requests.load(Ordering::Relaxed) > self.at
    }

    async fn carry_out(&self, change: Change) -> object_store::Result<PutResult> {
        let done = PutResult { e_tag: None, version: None, extensions: Default::default() };
        match change {
            Change::Put(name, payload, options) => {
                return self.inner.put_opts(&name, payload, options).await;
            }
            Change::Copy(from, to, options) => self.inner.copy_opts(&from, &to, options).await?,
            Change::Delete(name) => self.inner.delete(&name).await?,
        }
        Ok(done)
    }

    async fn change(&self, change: Change) -> object_store::Result<PutResult> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let due = {
            let mut late = self.late.lock().expect("no panic");
            late.take_if(|(at, _)| *at <= number).map(|(_, change)| change)
        };
        if let Some(due) = due {
            // Whatever becomes of it, nobody hears of it.
            let _ = self.carry_out(due).await;
        }
        if number > self.at && self.dies.load(Ordering::Relaxed) {
            return Err(lost());
        }
        if number != self.at {
            return self.carry_out(change).await;
        }
        match self.fate {
            Fate::Refused => {}
            Fate::Unheard => drop(self.carry_out(change).await),
            Fate::Late(by) => {
                *self.late.lock().expect("no panic") = Some((number + by, change));
            }
        }
        Err(lost())
    }
}

#[async_trait]
impl ObjectStore for Unlucky {
    async fn put_opts(
        &self,
        name: &Name,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.0.change(Change::Put(name.clone(), payload, options)).await
    }

    async fn put_multipart_opts(
        &self,
        name: &Name,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.0.inner.put_multipart_opts(name, options).await
    }

    async fn get_opts(&self, name: &Name, options: GetOptions) -> object_store::Result<GetResult> {
        if self.0.is_dead() { Err(lost()) } else { self.0.inner.get_opts(name, options).await }
    }

    fn delete_stream(
        &self,
        names: BoxStream<'static, object_store::Result<Name>>,
    ) -> BoxStream<'static, object_store::Result<Name>> {
        let requests = Arc::clone(&self.0);
        let delete = move |name: object_store::Result<Name>| {
            let requests = Arc::clone(&requests);
            async move {
                let name = name?;
                requests.change(Change::Delete(name.clone())).await.map(|_| name)
            }
        };
        names.then(delete).boxed()
    }

    fn list(&self, below: Option<&Name>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        if self.0.is_dead() {
            return futures::stream::iter([Err(lost())]).boxed();
        }
        self.0.inner.list(below)
    }

    async fn list_with_delimiter(&self, below: Option<&Name>) -> object_store::Result<ListResult> {
        self.0.inner.list_with_delimiter(below).await
    }

    async fn copy_opts(
        &self,
        from: &Name,
        to: &Name,
        options: CopyOptions,
    ) -> object_store::Result<()> {
        self.0.change(Change::Copy(from.clone(), to.clone(), options)).await.map(|_| ())
    }
}

/// A sink in a store.
fn bench(store: Arc<dyn ObjectStore>) -> Bench {
    let root = Arc::new(tempfile::tempdir().expect("a directory"));
    let source = "path = \"lake\"\nroll = { rows = 2 }";
    let plan = plan_of(source, raw_schema(), Emit::Final).expect("a plan");
    let mut plan = Arc::into_inner(plan).expect("one owner");
    plan.store = Store::Bucket(Bucket::new(store, "lake", "memory://bucket/lake"));
    let (plan, now_us) = (Arc::new(plan), Arc::new(AtomicU64::new(0)));
    let sink = sink(&plan, &now_us);
    Bench { root, plan, now_us, sink }
}

fn rows_of(epoch: u64) -> Vec<Row> {
    let from = (epoch as usize - 1) * ROWS;
    let row = |n: usize| {
        let day = if n % ROWS == 1 { "2026-11-22T10:00:00Z" } else { "2026-11-21T10:00:00Z" };
        raw(&format!("{n:03}"), "order.filled", day)
    };
    (from..from + ROWS).map(row).collect()
}

/// The ids of what a reader sees.
async fn visible_ids(store: &Arc<InMemory>) -> Vec<String> {
    let below = Name::from("lake/events");
    let objects: Vec<ObjectMeta> = store.list(Some(&below)).try_collect().await.expect("listed");
    let mut ids = Vec::new();
    for object in objects {
        let bytes: Bytes =
            store.get(&object.location).await.expect("there").bytes().await.expect("read");
        let reader = SerializedFileReader::new(bytes).expect("Parquet");
        for row in reader.get_row_iter(None).expect("rows") {
            let row = row.expect("a row");
            let id = row.get_column_iter().find(|(column, _)| *column == "id").expect("an id");
            ids.push(id.1.to_string().trim_matches('"').to_owned());
        }
    }
    ids.sort();
    ids
}

async fn count_below(store: &Arc<InMemory>, name: &str) -> usize {
    let objects: Vec<_> = store.list(Some(&Name::from(name))).try_collect().await.expect("listed");
    objects.len()
}

/// Runs until something goes wrong, as the runtime does: what is acknowledged, and whether all is.
async fn run(bench: &mut Bench, from: u64) -> (u64, bool) {
    let mut held = from;
    while held < COMMITS {
        let epoch = held + 1;
        match bench.commit(epoch, rows_of(epoch)).await {
            Ok(durable) => held = durable.expect("rolled at once"),
            Err(fault) => {
                assert_eq!(fault.remedy, Remedy::Retry, "{fault}");
                match bench.sink.recover().await {
                    Ok(durable) => {
                        let durable = durable.map_or(0, |progress| progress.record.epoch);
                        assert!(durable >= held, "{held} was promised, {durable} is held");
                        held = durable;
                    }
                    Err(_) => return (held, false),
                }
            }
        }
    }
    (held, true)
}

/// The whole history in a store where one request has a fate; true if there was such a request.
async fn survives(at: usize, fate: Fate, dies: bool) -> bool {
    let inner = Arc::new(InMemory::new());
    let unlucky = Requests::new(&inner, at, fate, dies);
    let (mut generation, mut acknowledged) = (0, 0);
    for attempt in 0.. {
        assert!(attempt < 10, "it never ends");
        generation += 1;
        // A dead process is followed by one that has better luck.
        if unlucky.is_dead() {
            unlucky.dies.store(false, Ordering::Relaxed);
        }
        let mut bench = bench(Arc::new(Unlucky(unlucky.clone())));
        let claimed = loop {
            match bench.sink.open(generation).await {
                Ok(claim) => break Some(claim),
                Err(ClaimError::Stale(held)) => generation = held + 1,
                Err(ClaimError::Fault(fault)) => {
                    assert_eq!(fault.remedy, Remedy::Retry, "{fault}");
                    break None;
                }
            }
        };
        let Some(claim) = claimed else { continue };
        let held = claim.progress.map_or(0, |progress| progress.record.epoch);
        let what = format!("request {at}, {fate:?}, dies: {dies}, attempt {attempt}");
        assert!(held >= acknowledged, "{what}: {acknowledged} was promised, {held} is held");
        assert_eq!(visible_ids(&inner).await, ids(0, held as usize * ROWS), "{what}");
        let (now, is_done) = run(&mut bench, held).await;
        acknowledged = now;
        if is_done {
            break;
        }
    }
    let what = format!("request {at}, {fate:?}, dies: {dies}");
    assert_eq!(visible_ids(&inner).await, ids(0, COMMITS as usize * ROWS), "{what}");
    let mut last = bench(inner.clone());
    assert_eq!(last.open(generation + 10).await, Some(COMMITS), "{what}");
    assert_eq!(visible_ids(&inner).await, ids(0, COMMITS as usize * ROWS), "{what}");
    assert_eq!(count_below(&inner, "lake/_waterwheel/trading.lake/staging").await, 0, "{what}");
    unlucky.requests.load(Ordering::Relaxed) > at
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_request_goes_wrong_nothing_is_lost_or_doubled() {
    let late: Vec<usize> =
        if super::crash_images::is_nightly() { (1..20).collect() } else { vec![1, 3, 8] };
    let fates = [Fate::Refused, Fate::Unheard]
        .into_iter()
        .chain(late.into_iter().map(Fate::Late))
        .flat_map(|fate| [(fate, false), (fate, true)]);
    let mut histories = 0;
    for (fate, dies) in fates {
        let mut at = 0;
        while survives(at, fate, dies).await {
            (at, histories) = (at + 1, histories + 1);
        }
        assert!(at > 20, "{at} requests change something");
    }
    println!("requests that go wrong in a bucket: {histories} histories, 0 lost, 0 doubled");
}

#[tokio::test]
async fn an_older_instance_is_fenced_off() {
    let inner = Arc::new(InMemory::new());
    let (mut older, mut newer) = (bench(inner.clone()), bench(inner.clone()));
    assert_eq!(older.open(1).await, None);
    assert_eq!(older.commit(1, rows_of(1)).await.expect("written"), Some(1));
    assert_eq!(newer.open(2).await, Some(1));
    let fault = older.commit(2, rows_of(2)).await.expect_err("fenced");
    assert_eq!(fault.remedy, Remedy::Halt);
    assert!(fault.message.contains("newer instance (generation 2)"), "{fault}");
    assert_eq!(older.sink.recover().await.expect_err("fenced").remedy, Remedy::Halt);
    assert_eq!(newer.commit(2, rows_of(2)).await.expect("written"), Some(2));
    assert_eq!(visible_ids(&inner).await, ids(0, 2 * ROWS));
}

#[tokio::test]
async fn a_bucket_can_be_emptied() {
    let inner = Arc::new(InMemory::new());
    let mut first = bench(inner.clone());
    first.open(1).await;
    first.commit(1, rows_of(1)).await.expect("written");
    first.sink.reset(&progress(0)).await.expect("emptied");
    assert_eq!(visible_ids(&inner).await, Vec::<String>::new());
    first.commit(1, rows_of(1)).await.expect("written");
    assert_eq!(visible_ids(&inner).await, ids(0, ROWS));
    assert_eq!(bench(inner).open(2).await, Some(1));
}
