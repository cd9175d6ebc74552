//! Buckets in memory, and errors as the stores word them.

use object_store::Error;

use super::*;
use crate::contract::fault::{Outcome, Remedy};
use object_store::memory::InMemory;

fn in_memory() -> Bucket {
    Bucket::new(Arc::new(InMemory::new()), "lake", "memory://bucket/lake")
}

fn error(status: &str, body: &str) -> Error {
    let text = format!(
        "Error performing PUT http://127.0.0.1:1/b/x in 10.2s, after 8 retries, max_retries: 8, \
         retry_timeout: 10s  - Server returned non-2xx status code: {status}: {body}"
    );
    let (path, source) = ("x".to_owned(), text.into());
    match &status[..3] {
        "404" => Error::NotFound { path, source },
        "403" => Error::PermissionDenied { path, source },
        "401" => Error::Unauthenticated { path, source },
        _ => Error::Generic { store: "S3", source },
    }
}

fn xml(code: &str, message: &str) -> String {
    format!(
        "<Error><Code>{code}</Code><Message>{message}</Message>\
         <StringToSign>AKIA canary</StringToSign></Error>"
    )
}

#[test]
fn errors_have_their_remedy() {
    let bucket = in_memory();
    for (status, body, remedy, told) in [
        (
            "503 Service Unavailable",
            xml("SlowDown", "Reduce your rate."),
            Remedy::Retry,
            "SlowDown",
        ),
        ("500 Internal Server Error", String::new(), Remedy::Retry, "500 Internal Server Error"),
        ("403 Forbidden", xml("AccessDenied", "Access Denied"), Remedy::Stop, "AccessDenied"),
        ("401 Unauthorized", String::new(), Remedy::Stop, "401 Unauthorized"),
        ("404 Not Found", xml("NoSuchBucket", "None."), Remedy::Stop, "there is no bucket"),
        ("400 Bad Request", xml("InvalidRequest", "No."), Remedy::Stop, "InvalidRequest: No."),
    ] {
        let fault = bucket.fault(&error(status, &body), "write", "x");
        let below = bucket.below("y/z").fault(&error(status, &body), "write", "x");
        // It would be told once for every part of the bucket.
        let is_one = remedy != Remedy::Retry || below.message == fault.message;
        assert!(is_one, "{fault}, {below}");
        assert_eq!(fault.remedy, remedy, "{fault}");
        assert!(fault.message.contains(told), "{fault}");
        assert!(!fault.message.contains("canary"), "{fault}");
        // It would be told again and again.
        assert!(!fault.message.contains("10.2"), "{fault}");
        let is_unknown = fault.outcome == Outcome::Unknown;
        assert_eq!(is_unknown, remedy == Remedy::Retry, "{fault}");
    }
    // As it comes from listing.
    let body = xml("NoSuchBucket", "None.");
    let source = format!("Server returned non-2xx status code: 404 Not Found: {body}").into();
    let fault = bucket.fault(&Error::Generic { store: "S3", source }, "list", "x");
    assert_eq!(fault.remedy, Remedy::Stop, "{fault}");
    assert!(fault.message.contains("there is no bucket"), "{fault}");
    let missing = error("404 Not Found", &xml("NoSuchKey", "None."));
    assert!(matches!(bucket.meaning(&missing, "read", "x"), Meaning::Missing));
}

#[test]
fn objects_are_created_once_and_listed() {
    let bucket = in_memory().below("events");
    assert!(bucket.create("log/1", b"a".to_vec()).expect("created"));
    assert!(!bucket.create("log/1", b"b".to_vec()).expect("taken"));
    bucket.check_exclusive("log/1", b"a".to_vec()).expect("exclusive");
    assert_eq!(bucket.read("log/1").expect("read").as_deref(), Some(&b"a"[..]));
    assert_eq!(bucket.read("log/2").expect("read"), None);
    // Percent signs are those of the name: a partition's value is encoded before.
    let name = "date=2026-11-21/kind=a%2Fb/part.parquet";
    bucket.write(name, b"p".to_vec()).expect("written");
    assert_eq!(bucket.list("date=2026-11-21").expect("listed"), [name]);
    assert_eq!(bucket.list("date=2026").expect("listed"), Vec::<String>::new());
    let mut directories = bucket.directories().expect("listed");
    directories.sort();
    assert_eq!(directories, ["date=2026-11-21", "log"]);
    let gone = ("no".to_owned(), "where".to_owned());
    let moves = [(name.to_owned(), "there/a%2Fb".to_owned()), gone.clone()];
    assert_eq!(bucket.rename(&moves).expect("renamed"), [gone]);
    assert!(!bucket.has(name).expect("asked") && bucket.has("there/a%2Fb").expect("asked"));
    bucket.delete(&["there/a%2Fb".to_owned(), "no".to_owned()]).expect("deleted");
    assert_eq!(bucket.list("").expect("listed"), ["log/1"]);
}

#[test]
fn large_objects_go_up_in_parts() {
    let bucket = in_memory();
    for size in [0, 10, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, PART_BYTES * 5 + 3] {
        let bytes: Vec<u8> = (0..size).map(|at| (at / 1000) as u8).collect();
        bucket.write_from("large", &mut &bytes[..]).expect("written");
        assert_eq!(bucket.read("large").expect("read"), Some(bytes), "{size}");
    }
}

#[test]
fn a_store_that_overwrites_is_refused() {
    let bucket = in_memory();
    // It is as if the store had forgotten that the object is there.
    let fault = bucket.check_exclusive("claim", b"a".to_vec()).expect_err("refused");
    assert_eq!(fault.remedy, Remedy::Stop);
    assert!(fault.message.contains("If-None-Match"), "{fault}");
}
