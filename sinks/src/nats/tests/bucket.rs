//! A key-value bucket: the latest row of each key, and the progress beside them.

use super::*;

fn bucket_sink(server: &NatsServer) -> Box<dyn Sink> {
    sink_of(&server.url(), "kv = \"prices\"", "$KV.prices.volume.*")
}

/// A bucket as other clients make it.
async fn create(server: &NatsServer, config: Json) -> Results {
    let mut all = json!({
        "name": "KV_prices", "subjects": ["$KV.prices.>"], "max_msgs_per_subject": 1,
        "discard": "new", "allow_rollup_hdrs": true, "deny_delete": true, "allow_direct": true,
    });
    all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    Results::create(server, all).await
}

/// What a key holds: headers and value.
async fn entry(results: &Results, key: &str) -> (String, String) {
    let subject = format!("$KV.prices.{key}");
    let message = results.api("STREAM.MSG.GET.KV_prices", json!({ "last_by_subj": subject })).await;
    let text = |name: &str| {
        let decoded = decode(message["message"][name].as_str().unwrap_or_default());
        String::from_utf8(decoded).unwrap()
    };
    (text("hdrs"), text("data"))
}

#[tokio::test]
async fn each_key_has_its_latest_row() {
    for config in [atomic(), json!({})] {
        let server = NatsServer::start();
        let results = create(&server, config).await;
        let mut writer = bucket_sink(&server);
        writer.open(1).await.unwrap();
        writer.commit(&commit(1, &[("BTC", 1), ("a.b *", 2), ("_", 3)], &[])).await.unwrap();
        writer.commit(&commit(2, &[("BTC", 5)], &[("a.b *", 2)])).await.unwrap();
        let (_, btc) = entry(&results, "volume.BTC").await;
        assert_eq!(
            serde_json::from_str::<Json>(&btc).unwrap(),
            json!({ "symbol": "BTC", "trades": 5 })
        );
        let (headers, gone) = entry(&results, "volume.a=2Eb=20=2A").await;
        assert!(headers.contains("KV-Operation: DEL") && gone.is_empty(), "{headers}{gone}");
        assert!(entry(&results, "volume.=5F").await.1.contains("\"trades\":3"));
        let (_, progress) = entry(&results, "waterwheel.progress.trading.results").await;
        assert!(progress.contains("\"ordinal\":2"), "{progress}");

        // The next instance goes on from there, and the older one is fenced off.
        let mut next = bucket_sink(&server);
        assert_eq!(next.open(2).await.unwrap().progress, Some(commit(2, &[], &[]).progress));
        let fault = writer.commit(&commit(3, &[("BTC", 9)], &[])).await.unwrap_err();
        assert_eq!(fault.remedy, Remedy::Halt, "{fault}");
    }
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_named() {
    let server = NatsServer::start();
    let Err(ClaimError::Fault(fault)) = bucket_sink(&server).open(1).await else { panic!() };
    assert_eq!(fault.remedy, Remedy::Stop, "{fault}");
    assert!(fault.message.contains("no key-value bucket `prices`"), "{fault}");
    assert_eq!(fault.help.as_deref(), Some("make it: nats kv add prices"));
}

#[test]
fn keys_are_such_as_clients_take() {
    let input = context().inputs.remove(0);
    let template = super::super::template::Template::of_keys("prices", &input);
    for text in ["", "é", "a b", "%~*>", &"é".repeat(500), &"x".repeat(500)] {
        let subject = template.subject(&Row::from(vec![Value::text(text), Value::Bigint(1)]));
        let key = subject.strip_prefix("$KV.prices.").unwrap();
        let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-/_=.".contains(&byte);
        assert!(key.bytes().all(is_valid) && key.split('.').count() == 2, "{key}");
        assert!(key.len() < 160, "{key}");
    }
}
