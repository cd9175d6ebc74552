//! Tests on real files, and on readers in the place of standard input.

use std::fs;
use std::time::Duration;

use tempfile::TempDir;
use waterwheel_config::document::Document;
use waterwheel_pipeline::contract::fault::Remedy;

use super::*;

/// What was read of a message: stream, ordinal, sequence, payload.
type Message = (String, u64, u64, String);

fn source_of(input: Input) -> Box<dyn Source> {
    FileSpec { input }.build(Until::Final)
}

fn source(directory: &TempDir, pattern: &str) -> Box<dyn Source> {
    source_of(Input::Files(directory.path().join(pattern).display().to_string()))
}

fn write(directory: &TempDir, name: &str, text: impl AsRef<[u8]>) {
    fs::write(directory.path().join(name), text).unwrap();
}

async fn batches(source: &mut dyn Source) -> Vec<RawBatch> {
    let mut batches = Vec::new();
    while let Next::Batch(batch) = source.next().await.unwrap() {
        batches.push(batch);
    }
    assert!(matches!(source.next().await, Ok(Next::End)), "the end is told again");
    batches
}

fn messages(batches: &[RawBatch]) -> Vec<Message> {
    let of_batch = |batch: &RawBatch| {
        let of_message = |message: &waterwheel_pipeline::contract::batch::RawMessage| {
            assert_eq!(batch.bytes(&message.subject), batch.stream.as_bytes());
            let payload = String::from_utf8_lossy(batch.bytes(&message.payload)).into_owned();
            let name = Path::new(&*batch.stream).file_name().unwrap().to_string_lossy();
            (name.into_owned(), message.ordinal, message.sequence, payload)
        };
        batch.messages.iter().map(of_message).collect::<Vec<_>>()
    };
    batches.iter().flat_map(of_batch).collect()
}

async fn read(source: &mut dyn Source, resume: Option<&Position>) -> Vec<Message> {
    source.open(resume).await.unwrap();
    messages(&batches(source).await)
}

async fn refused(source: &mut dyn Source, resume: &Position, remedy: Remedy, words: &str) {
    let fault = source.open(Some(resume)).await.expect_err("it must be refused");
    assert_eq!(fault.remedy, remedy, "{fault}");
    assert!(fault.message.contains(words), "{fault}");
}

fn of(name: &str, ordinal: u64, sequence: u64, payload: &str) -> Message {
    (name.to_owned(), ordinal, sequence, payload.to_owned())
}

#[tokio::test]
async fn line_ends_blank_lines_and_a_byte_order_mark() {
    let directory = TempDir::new().unwrap();
    write(&directory, "a", "\u{feff}{\"a\":1}\r\n\r\n\n  \t\n{\"a\":2}\n\r\r\n x\r\r\n{\"a\":3}");
    let wanted = [
        of("a", 1, 1, "{\"a\":1}"),
        of("a", 5, 5, "{\"a\":2}"),
        of("a", 7, 7, " x\r"),
        of("a", 8, 8, "{\"a\":3}"),
    ];
    assert_eq!(read(&mut *source(&directory, "a"), None).await, wanted);
    // The last line feed makes no difference, and neither does an empty file.
    write(&directory, "b", "{}\n");
    assert_eq!(read(&mut *source(&directory, "b"), None).await, [of("b", 1, 1, "{}")]);
    write(&directory, "c", "");
    assert_eq!(read(&mut *source(&directory, "c"), None).await, []);
}

#[tokio::test]
async fn a_glob_is_one_log_in_name_order() {
    let directory = TempDir::new().unwrap();
    for (name, text) in [("b.l", "3\n4"), ("c.l", ""), ("a.l", "1\n\n2\n"), ("d.l", "5\n")] {
        write(&directory, name, text);
    }
    write(&directory, ".hidden.l", "no\n");
    write(&directory, "other", "no\n");
    let mut source = source(&directory, "*.l");
    let start = source.open(None).await.unwrap();
    assert!(start.stream.ends_with("a.l"), "{start:?}");
    assert_eq!((start.ordinal, start.fingerprint), (0, 0));
    let batches = batches(&mut *source).await;
    assert_eq!(batches.len(), 3, "one file to a batch");
    let wanted = [
        of("a.l", 1, 1, "1"),
        of("a.l", 3, 3, "2"),
        of("b.l", 4, 1, "3"),
        of("b.l", 5, 2, "4"),
        of("d.l", 6, 1, "5"),
    ];
    assert_eq!(messages(&batches), wanted);
    assert!(batches[0].messages.iter().all(|message| message.received_at_us.is_none()));
    assert!(source.probe().await.is_empty());
}

#[tokio::test]
async fn every_position_resumes_to_the_same_messages() {
    let directory = TempDir::new().unwrap();
    let text = |from: u64, to: u64| {
        let line = |n| format!("{{\"n\":{n}}}\n{}", ["", "\n"][usize::from(n % 7 == 0)]);
        (from..to).map(line).collect::<String>()
    };
    // Beyond one batch, and beyond one read.
    write(&directory, "a.l", text(0, 90_000));
    write(&directory, "b.l", text(90_000, 90_010));
    let mut straight = source(&directory, "*.l");
    straight.open(None).await.unwrap();
    let whole = batches(&mut *straight).await;
    assert_eq!(whole.iter().map(|batch| batch.messages.len()).sum::<usize>(), 90_010);
    let all = messages(&whole);
    for cut in [0, 1, 2, 4_095, 4_096, 50_000, 89_999, 90_000, 90_005, 90_009] {
        let ordinal = all[cut].1;
        let position = whole.iter().find_map(|batch| {
            let end = batch.clone().split_through(ordinal).end()?;
            (end.ordinal == ordinal).then_some(end)
        });
        let rest = read(&mut *source(&directory, "*.l"), position.as_ref()).await;
        assert!(rest == all[cut + 1..], "after {cut}: {} of {}", rest.len(), all.len() - cut - 1);
    }
    // The same source opens again, as after a fault.
    let end = whole[0].end();
    assert!(read(&mut *straight, end.as_ref()).await == all[whole[0].messages.len()..]);
}

#[tokio::test]
async fn what_was_appended_is_read_and_what_was_rewritten_halts() {
    let directory = TempDir::new().unwrap();
    write(&directory, "a.l", "one\ntwo\n");
    write(&directory, "b.l", "three\n");
    let mut source = source(&directory, "*.l");
    source.open(None).await.unwrap();
    let end = batches(&mut *source).await.pop().unwrap().end().unwrap();
    assert_eq!(read(&mut *source, Some(&end)).await, []);

    write(&directory, "b.l", "three\nfour\n");
    assert_eq!(read(&mut *source, Some(&end)).await, [of("b.l", 4, 2, "four")]);

    write(&directory, "b.l", "THREE\nfour\n");
    refused(&mut *source, &end, Remedy::Halt, "line 1 of").await;
    write(&directory, "b.l", "");
    refused(&mut *source, &end, Remedy::Halt, "the log has only 2 lines").await;
    // The same line in another file is another log.
    write(&directory, "a.l", "one\ntwo\nthree\n");
    refused(&mut *source, &end, Remedy::Halt, "line 3 of").await;
    // So is the position of a stream.
    write(&directory, "a.l", "one\ntwo\n");
    write(&directory, "b.l", "three\n");
    assert_eq!(read(&mut *source, Some(&end)).await, []);
    let stream = Position { created: 7, ..end };
    refused(&mut *source, &stream, Remedy::Halt, "not those that were read before").await;
}

#[tokio::test]
async fn what_is_not_there_stops() {
    let directory = TempDir::new().unwrap();
    fs::create_dir(directory.path().join("sub.l")).unwrap();
    for (pattern, words) in [
        ("nothing", "cannot open"),
        ("*.json", "no file matches"),
        ("sub.l", "is a directory"),
        ("*.l", "is a directory"),
    ] {
        let fault = source(&directory, pattern).open(None).await.expect_err(pattern);
        assert_eq!(fault.remedy, Remedy::Stop, "{fault}");
        assert!(fault.message.contains(words), "{fault}");
        assert_eq!(source(&directory, pattern).probe().await, [fault.message]);
    }
    // A name that looks like a glob is taken as it stands.
    write(&directory, "x[1].l", "1\n");
    assert_eq!(read(&mut *source(&directory, "x[1].l"), None).await, [of("x[1].l", 1, 1, "1")]);
}

#[tokio::test]
async fn standard_input_is_read_once() {
    let input = Input::once("stdin", Box::new("{\"a\":1}\n\n{\"a\":2}".as_bytes()));
    let mut source = source_of(input.clone());
    let wanted = [of("stdin", 1, 1, "{\"a\":1}"), of("stdin", 3, 3, "{\"a\":2}")];
    assert!(source.probe().await.is_empty(), "a probe consumes nothing");
    assert_eq!(read(&mut *source, None).await, wanted);
    let again = Position {
        stream: "stdin".into(),
        created: 0,
        ordinal: 0,
        fingerprint: 0,
        gaps: Vec::new(),
    };
    refused(&mut *source_of(input), &again, Remedy::Stop, "a second time").await;
    let fresh = Input::once("stdin", Box::new("{}".as_bytes()));
    let later = Position { ordinal: 3, ..again };
    refused(&mut *source_of(fresh), &later, Remedy::Stop, "a second time").await;
}

#[tokio::test]
async fn a_pipe_hands_on_what_is_there_before_it_waits() {
    let (reader, mut writer) = io::pipe().unwrap();
    let mut source = source_of(Input::once("stdin", Box::new(reader)));
    source.open(None).await.unwrap();
    for text in ["{\"a\":1}\n{\"a\":2}\n{\"a\"", ":3}\n", "\n{\"a\":4}\n"] {
        io::Write::write_all(&mut writer, text.as_bytes()).unwrap();
        // Without the line that is not yet whole: this returns although the pipe stays open.
        let next = tokio::time::timeout(Duration::from_secs(10), source.next()).await;
        assert!(matches!(next.expect("a batch, not a wait"), Ok(Next::Batch(_))));
    }
    // A call that is dropped loses nothing.
    assert!(futures::FutureExt::now_or_never(source.next()).is_none());
    io::Write::write_all(&mut writer, b"last").unwrap();
    drop(writer);
    assert_eq!(messages(&batches(&mut *source).await), [of("stdin", 6, 6, "last")]);
}

#[tokio::test]
async fn faults_of_reading_are_retried() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk is on fire"))
        }
    }
    let mut source = source_of(Input::once("stdin", Box::new(Broken)));
    source.open(None).await.unwrap();
    let fault = source.next().await.expect_err("a fault");
    assert_eq!(fault.remedy, Remedy::Retry, "{fault}");
    assert!(fault.message.contains("on fire"), "{fault}");
}

#[test]
fn settings() {
    let check = |text: &str| {
        let document = Document::parse("t.toml", text, Box::new(|_| None));
        let spec = plan(&document.root());
        let described = spec.map(|spec| spec.describe());
        (described, document.render_findings(false))
    };
    assert_eq!(check("path = \"x/*.jsonl\"").0.as_deref(), Some("file x/*.jsonl"));
    assert_eq!(check("path = \"-\"\nuntil = \"end\"").0.as_deref(), Some("stdin"));
    for (text, words) in [
        ("", "needs the key `path`"),
        ("path = 1", "must be a string"),
        ("path = \"\"", "`path` is empty"),
        ("path = \"a/***\"", "is not a glob"),
        ("path = \"a\"\nuntil = \"forever\"", "t.toml:2:9"),
    ] {
        let findings = check(text).1;
        assert!(findings.contains(words), "{text}: {findings}");
    }
    let document = Document::parse("t.toml", KIND.example, Box::new(|_| None));
    let table = document.root().table("sources").and_then(|table| table.table("history"));
    assert!(plan(&table.unwrap()).is_some());
}
