//! Messages that are gone before they were read, and what sinks have seen of a stream.

use super::*;

#[tokio::test]
async fn a_gap_is_passed_where_it_was_accepted_exactly() {
    let server = NatsServer::start();
    let stream = Stream::create(&server, json!({})).await;
    stream.publish(0, 100).await;
    let url = server.url();
    let mut reader = source(&url, "", Until::Forever);
    let origin = reader.open(None).await.unwrap();
    let (_, end) = read(&mut reader, 100).await;
    let end = end.unwrap();
    reader.close().await;
    stream.publish(100, 120).await;
    stream.api("STREAM.PURGE.S", json!({ "seq": 111 })).await;

    // Anything but what is missing halts, and says what to write.
    for wrong in ["", "101..109", "101..111", "100..110", "1..110", "101..105 106..110"] {
        let fault = accepting(&url, "", wrong).open(Some(&end)).await.unwrap_err();
        assert_eq!(fault.remedy, Remedy::Halt, "{wrong}");
        assert!(
            fault.message.contains("10 messages that are still to be read: 101 to 110"),
            "{fault}"
        );
        assert_eq!(fault.message.contains("--accept-gap names"), !wrong.is_empty(), "{fault}");
        let help = fault.help.unwrap();
        assert!(help.ends_with("waterwheel run FILE --accept-gap events:101..110"), "{help}");
    }
    let mut passed = accepting(&url, "", "101..110");
    let position = passed.open(Some(&end)).await.unwrap();
    let behind = Position { ordinal: 110, fingerprint: 0, gaps: ranges("101..110"), ..end.clone() };
    assert_eq!(position, behind);
    passed.verify(&end).await.unwrap();
    // A fault before the first message changes nothing.
    assert_eq!(passed.open(Some(&position)).await.unwrap(), behind);
    let (messages, later) = read(&mut passed, 10).await;
    assert_eq!(numbers(&messages), (110..120).collect::<Vec<_>>());
    let later = later.unwrap();
    assert_eq!((later.ordinal, &later.gaps), (120, &behind.gaps), "every batch carries the gap");
    passed.close().await;

    // Recorded, it is accepted for good; what is gone since is another gap.
    let before = Position { gaps: behind.gaps.clone(), ..end.clone() };
    assert_eq!(source(&url, "", Until::Forever).open(Some(&before)).await.unwrap(), behind);
    let from_the_start = Position { gaps: behind.gaps, ..origin.clone() };
    stream.api("STREAM.PURGE.S", json!({ "seq": 116 })).await;
    let fault = accepting(&url, "", "1..115").open(Some(&from_the_start)).await.unwrap_err();
    let help = fault.help.unwrap();
    let flags = "--accept-gap events:1..100 --accept-gap events:111..115";
    assert!(help.ends_with(flags), "{help}");
    let mut passed = accepting(&url, "", "111..115 1..100");
    let position = passed.open(Some(&from_the_start)).await.unwrap();
    assert_eq!((position.ordinal, position.gaps), (115, ranges("1..115")));

    // A start that is gone is a gap as well.
    let mut passed = accepting(&url, "start = 90", "90..115");
    let position = passed.open(None).await.unwrap();
    assert_eq!((position.ordinal, position.gaps), (115, ranges("90..115")));
    // Where nothing is missing the words mean nothing.
    let mut unneeded = accepting(&url, "", "3..4");
    assert_eq!(unneeded.open(Some(&later)).await.unwrap(), later);
}

#[tokio::test]
async fn what_a_sink_has_seen_is_compared_too() {
    let server = NatsServer::start();
    let stream = Stream::create(&server, json!({})).await;
    stream.publish(0, 100).await;
    let mut reader = source(&server.url(), "", Until::Forever);
    let origin = reader.open(None).await.unwrap();
    let (_, seen) = read(&mut reader, 100).await;
    let seen = seen.unwrap();
    // From the beginning, where no message tells one log from another.
    reader.open(Some(&origin)).await.unwrap();
    reader.verify(&seen).await.unwrap();
    let other = Position { fingerprint: seen.fingerprint ^ 1, ..seen.clone() };
    let fault = reader.verify(&other).await.unwrap_err();
    assert_eq!(fault.remedy, Remedy::Halt);
    assert!(fault.message.contains("message 100 is not the one"), "{fault}");
    let beyond = Position { ordinal: 101, ..seen.clone() };
    let fault = reader.verify(&beyond).await.unwrap_err();
    assert!(fault.message.contains("101 was read up to, and it now ends at 100"), "{fault}");
    let recreated = Position { created: 7, ..seen };
    let fault = reader.verify(&recreated).await.unwrap_err();
    assert!(fault.message.contains("deleted and created again"), "{fault}");
}

#[tokio::test]
async fn limits_that_overtake_a_reader_halt_it() {
    let server = NatsServer::start();
    let stream = Stream::create(&server, json!({ "max_msgs": 500 })).await;
    stream.publish(0, 100).await;
    let mut reader = source(&server.url(), "", Until::Forever);
    reader.open(None).await.unwrap();
    let (_, end) = read(&mut reader, 100).await;
    stream.publish(100, 40_000).await;
    let overtaken = fault(&mut reader).await;
    assert_eq!(overtaken.remedy, Remedy::Halt);
    assert!(overtaken.message.contains("messages that are still to be read"), "{overtaken}");
    assert!(overtaken.help.unwrap().contains("start it again"));
    reader.close().await;
    let fault = source(&server.url(), "", Until::Forever).open(end.as_ref()).await.unwrap_err();
    assert!(
        fault.message.contains("39400 messages that are still to be read: 101 to 39500"),
        "{fault}"
    );
}
