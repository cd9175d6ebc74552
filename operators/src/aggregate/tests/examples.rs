//! The edges that deserve a name.

use waterwheel_config::value::{Row, Value};

use crate::testing::{Message, Script, Step, deployment, final_rows, run};

/// The rows, as text, after these payloads; each is an epoch of its own.
fn rows(lateness: &str, operator: &str, payloads: &[&str]) -> Vec<String> {
    let operators = format!("[operators.o]\ntype = \"aggregate\"\nfrom = \"events0\"\n{operator}");
    let deployment = deployment(&[lateness], &operators).expect("a deployment");
    let steps = payloads.iter().zip(1..).flat_map(|(payload, sequence)| {
        let payload = (*payload).to_owned();
        let message = Message { sequence, payload, ..Message::default() };
        [Step::Message(message), Step::Epoch]
    });
    let script = Script { steps: steps.collect(), in_flight: 0, is_final: false };
    let run = run(&deployment, 2, &script).expect("a run");
    let plain = |row: Row| row.values().iter().map(Value::to_plain).collect::<Vec<_>>().join(" ");
    final_rows(&run, 0).expect("rows").into_iter().map(plain).collect()
}

const COUNT: &str = "measures.n = \"count(*)\"\n";

#[test]
fn an_event_as_late_as_allowed_counts_and_one_that_is_later_does_not() {
    let settings = format!("windows = [\"1m\"]\n{COUNT}");
    let on_time =
        [r#"{"timestamp":"2026-01-01T00:01:30Z"}"#, r#"{"timestamp":"2026-01-01T00:01:00Z"}"#];
    assert_eq!(
        rows("30s", &settings, &on_time),
        ["1m 2026-01-01T00:01:00Z 2026-01-01T00:02:00Z 2"]
    );
    let late = [on_time[0], r#"{"timestamp":"2026-01-01T00:00:59.999999Z"}"#];
    assert_eq!(rows("30s", &settings, &late), ["1m 2026-01-01T00:01:00Z 2026-01-01T00:02:00Z 1"]);
}

#[test]
fn calendar_days_are_23_and_25_hours_long_at_daylight_saving() {
    let settings = format!("timezone = \"Europe/Berlin\"\nwindows = [\"1d\"]\n{COUNT}");
    let spring = [
        r#"{"timestamp":"2026-03-28T22:59:59.999999Z"}"#,
        r#"{"timestamp":"2026-03-28T23:00:00Z"}"#,
        r#"{"timestamp":"2026-03-29T21:59:59.999999Z"}"#,
        r#"{"timestamp":"2026-03-29T22:00:00Z"}"#,
    ];
    assert_eq!(
        rows("0s", &settings, &spring),
        [
            "1d 2026-03-27T23:00:00Z 2026-03-28T23:00:00Z 1",
            "1d 2026-03-28T23:00:00Z 2026-03-29T22:00:00Z 2",
            "1d 2026-03-29T22:00:00Z 2026-03-30T22:00:00Z 1",
        ]
    );
    let autumn =
        [r#"{"timestamp":"2026-10-24T22:00:00Z"}"#, r#"{"timestamp":"2026-10-25T22:59:59Z"}"#];
    assert_eq!(rows("0s", &settings, &autumn), ["1d 2026-10-24T22:00:00Z 2026-10-25T23:00:00Z 2"]);
}

#[test]
fn equal_texts_make_one_group_whatever_their_type() {
    let settings = format!("windows = [\"1m\"]\nby = [\"k\"]\n{COUNT}");
    let payloads = [
        r#"{"timestamp":0,"k":1}"#,
        r#"{"timestamp":0,"k":1.0}"#,
        r#"{"timestamp":0,"k":"1"}"#,
        r#"{"timestamp":0,"k":true}"#,
        r#"{"timestamp":0,"k":"true"}"#,
        r#"{"timestamp":0,"k":null}"#,
        r#"{"timestamp":0}"#,
        r#"{"timestamp":0,"k":""}"#,
    ];
    let head = "1m 1970-01-01T00:00:00Z 1970-01-01T00:01:00Z";
    assert_eq!(
        rows("0s", &settings, &payloads),
        [
            format!("{head}  2"),
            format!("{head}  1"),
            format!("{head} 1 3"),
            format!("{head} true 2")
        ]
    );
}

#[test]
fn the_largest_numbers_have_a_sum_an_average_and_quantiles() {
    let settings = "windows = [\"1m\"]\nmeasures.s = \"sum(x)\"\nmeasures.a = \"avg(x)\"\n\
                    measures.q = \"median(x) FILTER (WHERE x > 0)\"\n";
    let head = "1m 1970-01-01T00:00:00Z 1970-01-01T00:01:00Z";
    let cancelled = [
        r#"{"timestamp":0,"x":8e307}"#,
        r#"{"timestamp":0,"x":-8e307}"#,
        r#"{"timestamp":0,"x":1e-300}"#,
    ];
    let [row] = &rows("0s", settings, &cancelled)[..] else { panic!("one row") };
    assert!(row.starts_with(&format!("{head} 1e-300 3.33")), "{row}");
    let integers = [
        r#"{"timestamp":0,"x":18446744073709551615}"#,
        r#"{"timestamp":0,"x":-9223372036854775808}"#,
    ];
    let [row] = &rows("0s", settings, &integers)[..] else { panic!("one row") };
    assert!(
        row.starts_with(&format!("{head} 9223372036854776000 4611686018427388000 18")),
        "{row}"
    );
}

#[test]
fn the_average_of_the_largest_numbers_is_one_of_them() {
    let settings = "windows = [\"1m\"]\nmeasures.s = \"sum(x)\"\nmeasures.a = \"avg(x)\"\n";
    let payloads = [r#"{"timestamp":0,"x":1e308}"#, r#"{"timestamp":0,"x":1e308}"#];
    // The sum is beyond doubles, which is NULL.
    assert_eq!(
        rows("0s", settings, &payloads),
        ["1m 1970-01-01T00:00:00Z 1970-01-01T00:01:00Z  1e+308"]
    );
}

#[test]
fn quantiles_reach_the_ends_of_the_range_of_doubles() {
    let settings = "windows = [\"1m\"]\nmeasures.q = \"median(x)\"\n";
    for x in [1e308, 1.79e308, -1.7e308, 3e-308] {
        let payload = format!("{{\"timestamp\":0,\"x\":{x:e}}}");
        let [row] = &rows("0s", settings, &[&payload])[..] else { panic!("one row") };
        let median: f64 = row.rsplit(' ').next().unwrap().parse().unwrap_or(f64::NAN);
        assert!((median / x - 1.0).abs() <= 0.01, "the median of {x:e} is {row}");
    }
}

#[test]
fn first_and_last_go_by_time_and_then_by_the_log() {
    let settings = "windows = [\"1m\"]\nmeasures.f = \"first(x)\"\nmeasures.l = \"last(x)\"\n\
                    measures.n = \"first(cast(x as double))\"\n";
    let payloads = [
        r#"{"timestamp":5,"x":"b"}"#,
        r#"{"timestamp":5,"x":"c"}"#,
        r#"{"timestamp":1,"x":null}"#,
        r#"{"timestamp":2,"x":7}"#,
        r#"{"timestamp":2,"x":8}"#,
        r#"{"timestamp":9}"#,
    ];
    assert_eq!(
        rows("30s", settings, &payloads),
        ["1m 1970-01-01T00:00:00Z 1970-01-01T00:01:00Z 7 c 7"]
    );
}

#[test]
fn a_change_compares_with_the_window_before_and_no_other() {
    let settings = "windows = [\"1m\"]\ncompare = \"previous\"\nmeasures.s = \"sum(x)\"\n";
    let payloads = [
        r#"{"timestamp":0,"x":4}"#,
        r#"{"timestamp":60,"x":5}"#,
        // Comes late, and changes both rows.
        r#"{"timestamp":59,"x":-4}"#,
        r#"{"timestamp":180,"x":1}"#,
    ];
    let head = |minute| format!("1m 1970-01-01T00:0{minute}:00Z 1970-01-01T00:0{}:00Z", minute + 1);
    assert_eq!(
        rows("1s", settings, &payloads),
        [format!("{} 0  ", head(0)), format!("{} 5 5 ", head(1)), format!("{} 1  ", head(3))]
    );
}

#[test]
fn a_hop_across_daylight_saving_goes_by_the_calendar() {
    let settings = format!(
        "timezone = \"Europe/Berlin\"\nwindows = [{{ size = \"2d\", every = \"1d\" }}]\n{COUNT}"
    );
    let payloads = [r#"{"timestamp":"2026-03-29T12:00:00Z"}"#];
    assert_eq!(
        rows("0s", &settings, &payloads),
        [
            "2d/1d 2026-03-27T23:00:00Z 2026-03-29T22:00:00Z 1",
            "2d/1d 2026-03-28T23:00:00Z 2026-03-30T22:00:00Z 1",
        ]
    );
}

#[test]
fn a_breakdown_counts_what_is_there() {
    let settings = format!("windows = [\"1m\"]\nbreakdown = [\"a.v\"]\n{COUNT}");
    let payloads = [
        r#"{"timestamp":0,"a":{"v":"y \"q\""}}"#,
        r#"{"timestamp":0,"a":{"v":1.0}}"#,
        r#"{"timestamp":0,"a":{"v":"1"}}"#,
        r#"{"timestamp":0,"a":{"v":null}}"#,
    ];
    assert_eq!(
        rows("0s", &settings, &payloads),
        [r#"1m 1970-01-01T00:00:00Z 1970-01-01T00:01:00Z 4 {"1":2,"y \"q\"":1}"#]
    );
}

/// A hundred windows go by: what is kept stays what is open, not what there was.
#[test]
fn state_stays_bounded_in_a_long_run() {
    for settings in [
        "windows = [\"1m\", { size = \"3m\", every = \"1m\" }]\ncompare = \"previous\"\n",
        "windows = [{ size = \"5m\", every = \"30s\" }]\n",
        "expire = \"2m\"\n",
    ] {
        let operator = format!(
            "[operators.o]\ntype = \"aggregate\"\nfrom = \"events0\"\nby = [\"k\"]\n{settings}\
             measures.n = \"count(distinct x)\"\nmeasures.d = \"stddev(x)\"\n\
             measures.a = \"approx_count_distinct(x)\"\nmeasures.q = \"median(x)\"\n"
        );
        let deployment = deployment(&["10s"], &operator).expect("a deployment");
        // Every minute has ten groups of its own, of four events each.
        let event = |index: u64| {
            let (minute, within) = (index / 40, index % 40);
            let payload = format!(
                "{{\"timestamp\":{},\"k\":\"{minute}:{}\",\"x\":{index}}}",
                minute * 60 + within,
                within % 10
            );
            Step::Message(Message { sequence: index, payload, ..Message::default() })
        };
        let minutes = |minute: u64| {
            (minute * 40..(minute + 1) * 40).map(event).chain([Step::Epoch]).collect::<Vec<_>>()
        };
        let steps = (0..100).flat_map(minutes).collect();
        let script = Script { steps, in_flight: 0, is_final: false };
        let run = run(&deployment, 2, &script).expect("a run");
        let bytes: Vec<usize> = run.epochs.iter().map(|epoch| epoch.state_bytes[0]).collect();
        let (early, late) = (bytes[10..20].iter().max(), bytes[20..].iter().max());
        // Times of four digits are as long as those of three, so that nothing grows at all.
        assert!(early >= late && bytes[10] > 0, "{settings}{bytes:?}");
        // One window's worth and what it is compared with, hops with: not ten of it.
        assert!(bytes[99] < 10 * bytes[0], "{settings}{bytes:?}");
    }
}
