//! What is under way of pull requests, and what is lost of it.

use std::io::Write;
use std::net::TcpStream;

use futures::StreamExt;

use super::*;

/// A server says that a request is over once it is served, where the request has a limit in bytes:
/// that must not count as another one. What is under way would grow until the client drops it.
#[tokio::test]
async fn never_more_than_two_requests_wait() {
    let server = NatsServer::start();
    let stream = Stream::create(&server, json!({})).await;
    stream.publish(0, 60_000).await;
    let mut reader = source(&server.url(), "", Until::Forever);
    reader.open(None).await.unwrap();
    assert_eq!(read(&mut reader, 60_000).await.0.len(), 60_000);
    // The reader now waits, with whatever it has asked for.
    let asks = async {
        let consumers = stream.api("CONSUMER.LIST.S", json!({})).await;
        consumers["consumers"][0]["num_waiting"].as_u64().unwrap()
    };
    let waiting = tokio::select! {
        _ = reader.next() => panic!("there is nothing more to read"),
        waiting = asks => waiting,
    };
    assert!((1..=2).contains(&waiting), "{waiting} requests wait");
}

/// As if the last deliveries had been dropped on the way: no later one shows the hole.
#[tokio::test]
async fn a_last_delivery_that_is_missing_is_read_again() {
    let server = NatsServer::start();
    let stream = Stream::create(&server, json!({})).await;
    stream.publish(0, 100).await;
    let mut pulls = stream.client.subscribe("$JS.API.CONSUMER.MSG.NEXT.>").await.unwrap();
    let mut consumers = stream.client.subscribe("$JS.API.CONSUMER.CREATE.>").await.unwrap();
    stream.client.flush().await.unwrap();
    let mut reader = source(&server.url(), "", Until::Forever);
    reader.open(None).await.unwrap();
    let mut all = read(&mut reader, 100).await.0;
    consumers.next().await.unwrap();
    let inbox = pulls.next().await.unwrap().reply.unwrap();
    beat(&server.url(), &inbox, 100);
    beat(&server.url(), &inbox, 101);
    let created = tokio::time::timeout(LIMIT, consumers.next());
    tokio::select! {
        _ = reader.next() => panic!("there is nothing more to read"),
        created = created => assert!(created.is_ok(), "another consumer is made"),
    }
    stream.publish(100, 110).await;
    all.extend(read(&mut reader, 10).await.0);
    assert_eq!(numbers(&all), (0..110).collect::<Vec<_>>());
}

/// Sends a heartbeat that says that so many messages were delivered.
fn beat(url: &str, inbox: &str, delivered: u64) {
    let head = format!(
        "NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: {delivered}\r\n\
         Nats-Last-Stream: {delivered}\r\n\r\n"
    );
    let mut connection = TcpStream::connect(url.trim_start_matches("nats://")).unwrap();
    let connect = r#"CONNECT {"verbose":false,"headers":true,"lang":"raw","version":"1"}"#;
    let length = head.len();
    write!(connection, "{connect}\r\nHPUB {inbox} {length} {length}\r\n{head}\r\nPING\r\n")
        .unwrap();
    // Once the answer is there, the server has taken it.
    let mut answer = String::new();
    while !answer.contains("PONG") {
        let mut bytes = [0; 4096];
        let count = std::io::Read::read(&mut connection, &mut bytes).unwrap();
        assert!(count > 0, "the server closed the connection: {answer}");
        answer.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
}
