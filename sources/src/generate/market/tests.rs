//! What the generated events promise, checked on events read back from their JSON.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;
use waterwheel_config::timestamp::parse;

use super::*;

/// The events of a day, as the benchmark takes them, but fewer.
fn day(count: i64) -> Market {
    let interval_us = 86_400_000_000 / count;
    Market::new(MarketSpec { users: 200_000, symbols: 50, interval_us, ..Default::default() })
}

fn text(market: &Market, ordinal: u64) -> String {
    let mut out = Vec::new();
    market.write_event(ordinal, &mut out);
    String::from_utf8(out).unwrap()
}

fn events(market: &Market, count: u64) -> Vec<(EventRef, Value)> {
    let mut out = Vec::new();
    let event = |ordinal| {
        out.clear();
        let event = market.write_event(ordinal, &mut out);
        (event, serde_json::from_slice(&out).unwrap())
    };
    (1..=count).map(event).collect()
}

#[test]
fn an_event_depends_on_its_seed_and_ordinal_alone() {
    let (one, other) = (day(100_000), day(100_000));
    let straight: Vec<_> = (1..=5_000).map(|ordinal| text(&one, ordinal)).collect();
    for ordinal in (1..=5_000).rev() {
        assert_eq!(text(&other, ordinal), straight[ordinal as usize - 1]);
    }
    let seeded = Market::new(MarketSpec { seed: 2, ..one.spec });
    let same = (1..=5_000).filter(|&at| text(&seeded, at) == straight[at as usize - 1]).count();
    assert_eq!(same, 0);
    // Kept for ever: a change breaks what was read before, and needs another VERSION.
    let digest = straight
        .iter()
        .fold(0, |hash, text| mix(hash ^ xxhash_rust::xxh3::xxh3_64(text.as_bytes())));
    assert_eq!((VERSION, digest), (1, 15_309_502_554_180_909_771), "{}", straight[..20].join("\n"));
}

#[test]
fn every_setting_is_part_of_the_identity() {
    let spec = MarketSpec::default();
    let variants = [
        spec,
        MarketSpec { seed: 2, ..spec },
        MarketSpec { users: 2, ..spec },
        MarketSpec { symbols: 2, ..spec },
        MarketSpec { interval_us: 2, ..spec },
        MarketSpec { start_us: 2, ..spec },
    ];
    let identities: HashSet<_> = variants.map(|spec| Market::new(spec).identity()).into();
    assert_eq!(identities.len(), variants.len());
}

#[test]
fn timestamps_are_in_disorder_but_never_late() {
    for (market, count) in [
        (day(200_000), 200_000_u64),
        (day(10_000_000), 200_000),
        (Market::new(MarketSpec::default()), 50_000),
        (Market::new(MarketSpec { interval_us: 1, ..Default::default() }), 50_000),
        (Market::new(MarketSpec { interval_us: 3_600_000_000, ..Default::default() }), 5_000),
    ] {
        let MarketSpec { start_us, interval_us, .. } = market.spec;
        let (mut largest_us, mut behind, mut furthest_us) = (i64::MIN, 0, 0);
        let mut out = Vec::new();
        for ordinal in 1..=count {
            let at = market.write_event(ordinal, &mut out).timestamp_us;
            let told_us = start_us + (ordinal.cast_signed() - 1) * interval_us;
            assert!(start_us <= at && at <= told_us, "{ordinal}");
            largest_us = largest_us.max(at);
            behind += u64::from(at < told_us);
            furthest_us = furthest_us.max(largest_us - at);
            out.clear();
        }
        let share = behind as f64 / count as f64;
        println!("{interval_us} us: {share:.4} behind, by {furthest_us} us at most");
        assert!(furthest_us < DISORDER_US);
        if count == 200_000 {
            assert!((0.14..0.16).contains(&share), "{share}");
            assert!(furthest_us > DISORDER_US * 9 / 10, "{furthest_us}");
        }
    }
}

#[test]
fn causes_come_first_and_correlations_hold() {
    let mut known: HashMap<String, (i64, Value)> = HashMap::new();
    let mut caused = 0;
    for (at, event) in events(&day(100_000), 60_000) {
        let id = event["id"].as_str().unwrap().to_owned();
        assert_eq!(parse(event["timestamp"].as_str().unwrap()), Some(at.timestamp_us));
        assert_eq!(event["event_type"], at.event_type);
        assert_eq!(at.subject, format!("events.{}", at.event_type));
        if let Some(cause) = event["causation_id"].as_str() {
            let (cause_us, cause) = known.get(cause).expect("a cause that was told before");
            caused += 1;
            assert!(*cause_us < at.timestamp_us, "{cause} {event}");
            for same in ["user_id", "correlation_id"] {
                assert_eq!(cause[same], event[same], "{cause} {event}");
            }
            let fits: &[&str] = match at.event_type {
                "user.signup" => &["page.viewed"],
                "deposit.made" => &["user.signup"],
                "order.placed" => &["deposit.made", "custom.trading.signal"],
                "order.filled" | "order.cancelled" => &["order.placed", "order.filled"],
                "position.closed" => &["order.filled"],
                other => panic!("{other} has no cause"),
            };
            assert!(fits.contains(&cause["event_type"].as_str().unwrap()), "{cause} {event}");
            if cause["properties"]["side"].is_string() {
                for same in ["symbol", "venue", "side"] {
                    assert_eq!(cause["properties"][same], event["properties"][same]);
                }
            }
        } else if event["event_type"] != "page.viewed" {
            assert_eq!(
                event["correlation_id"], event["id"],
                "a story is named after its first event"
            );
        }
        assert!(known.insert(id, (at.timestamp_us, event)).is_none(), "an id twice");
    }
    assert!(caused > 20_000, "{caused}");
}

#[test]
fn parts_of_an_order_add_up() {
    let mut orders: HashMap<String, (f64, Vec<f64>)> = HashMap::new();
    for (at, event) in events(&day(100_000), 60_000) {
        let Some(story) = event["correlation_id"].as_str() else { continue };
        let quantity = event["properties"]["quantity"].as_f64();
        let order = orders.entry(story.to_owned()).or_default();
        match (at.event_type, quantity) {
            ("order.placed", Some(quantity)) => order.0 = quantity,
            ("order.filled", Some(quantity)) => order.1.push(quantity),
            _ => {}
        }
    }
    let mut in_parts = 0;
    for (ordered, filled) in orders.values().filter(|(_, filled)| filled.len() > 1) {
        assert!((filled.iter().sum::<f64>() - ordered).abs() < 1e-9, "{ordered} {filled:?}");
        in_parts += 1;
    }
    assert!(in_parts > 100, "{in_parts}");
}

#[test]
fn the_mix_has_heavy_tails_and_the_size_of_the_benchmark() {
    let count = 200_000;
    let (mut types, mut symbols) = (BTreeMap::new(), BTreeMap::new());
    let mut users: HashMap<String, u32> = HashMap::new();
    let (mut bytes, mut least, mut most) = (0, usize::MAX, 0);
    let market = day(10_000_000);
    // Far into the day, where identifiers have the length that most have.
    let from = 4_000_000;
    for ordinal in from..from + count {
        let text = text(&market, ordinal);
        let event: Value = serde_json::from_str(&text).unwrap();
        bytes += text.len();
        (least, most) = (least.min(text.len()), most.max(text.len()));
        *types.entry(event["event_type"].as_str().unwrap().to_owned()).or_insert(0_u32) += 1;
        *users.entry(event["user_id"].as_str().unwrap().to_owned()).or_insert(0) += 1;
        if let Some(symbol) = event["properties"]["symbol"].as_str() {
            *symbols.entry(symbol.to_owned()).or_insert(0_u32) += 1;
        }
    }
    let mean = bytes as f64 / count as f64;
    println!("{mean:.1} bytes on average, {least} to {most}");
    assert!((226.0..246.0).contains(&mean), "{mean}");
    assert_eq!(types.len(), 8);
    assert_eq!(symbols.len(), 50);
    let traded: u32 = symbols.values().sum();
    assert!(symbols["BTC"] > traded / 6 && symbols["YFI"] < traded / 100, "{symbols:?}");
    let mut by_user: Vec<_> = users.into_values().collect();
    by_user.sort_unstable_by(|a, b| b.cmp(a));
    let top: u32 = by_user.iter().take(by_user.len() / 100).sum();
    println!(
        "{} users, the most active one with {} events, the first percent with {top}",
        by_user.len(),
        by_user[0]
    );
    // Evenly spread, a percent of them would do a percent.
    assert!(u64::from(top) > count / 20, "{top}");
    assert!(by_user.len() > 10_000 && u64::from(by_user[0]) > count / 100, "{}", by_user[0]);
}

#[test]
fn numbers_at_their_ends_do_no_harm() {
    for spec in [
        MarketSpec {
            seed: u64::MAX,
            users: 0,
            symbols: 0,
            interval_us: i64::MAX,
            start_us: i64::MAX,
        },
        MarketSpec {
            seed: 0,
            users: u32::MAX,
            symbols: u32::MAX,
            interval_us: i64::MIN,
            start_us: i64::MIN,
        },
    ] {
        let market = Market::new(spec);
        for ordinal in [0, 1, 2, 1 << 40, u64::MAX - 1, u64::MAX] {
            let event: Value = serde_json::from_str(&text(&market, ordinal)).unwrap();
            assert!(parse(event["timestamp"].as_str().unwrap()).is_some());
        }
    }
}
