//! Samples against the rule applied to all of a log, at the end of every epoch.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono_tz::Tz;
use waterwheel_config::value::Value;
use waterwheel_pipeline::graph::Deployment;

use crate::testing::{
    By, Cell, Event, Expected, ExpectedRows, Holds, Item, Kind, Measure, Message, Model, Prefix,
    Random, Script, Step, Timeline, cases, check, check_random_cuts, deployment, deployment_into,
    final_rows, lateness_us, run, shuffled,
};

const KEEP: [Option<(&str, Holds)>; 3] = [
    None,
    Some(("event_type = 'FILL'", |e| Some(e.get("event_type").is_text("FILL")))),
    Some(("properties.price > 2", |e| e.get("properties.price").greater(2.0))),
];

const CONDITIONS: [Option<(&str, Holds)>; 3] = [
    None,
    None,
    Some(("event_type <> 'noise'", |e| match e.get("event_type") {
        Cell::Text(kind) => Some(kind != "noise"),
        _ => None,
    })),
];

const BY: [&[&str]; 3] = [&[], &["user_id"], &["user_id", "properties.venue"]];

/// One item on its way.
#[derive(Clone, Debug)]
struct Candidate<O> {
    group: Option<Vec<String>>,
    time_us: i64,
    /// Behind the time.
    order: O,
    key: String,
    is_kept: bool,
    /// The index of the item.
    index: usize,
}

#[derive(Clone, Copy, Debug)]
struct Rule {
    context: usize,
    within_us: i64,
    rate: f64,
}

impl Rule {
    /// The indices of the items that pass, of those that are decided at a watermark.
    fn passing<O: Ord>(&self, mut all: Vec<Candidate<O>>, watermark_us: i64) -> Vec<usize> {
        all.sort_by(|a, b| (a.time_us, &a.order).cmp(&(b.time_us, &b.order)));
        let mut groups: BTreeMap<Vec<String>, Vec<&Candidate<O>>> = BTreeMap::new();
        for one in &all {
            // What has no group is alone.
            let alone = || vec!["NULL".to_owned(), one.key.clone(), String::new()];
            groups.entry(one.group.clone().unwrap_or_else(alone)).or_default().push(one);
        }
        let mut passing = Vec::new();
        for group in groups.values() {
            for (at, one) in group.iter().enumerate() {
                let is_decided = one.time_us.saturating_add(self.within_us) < watermark_us;
                if is_decided && self.passes(group, at) {
                    passing.push(one.index);
                }
            }
        }
        passing
    }

    fn passes<O>(&self, group: &[&Candidate<O>], at: usize) -> bool {
        let one = group[at];
        let around = |most: usize| {
            let places = at.saturating_sub(most)..(at + most + 1).min(group.len());
            let near = move |place: &usize| {
                *place != at && (group[*place].time_us - one.time_us).abs() <= self.within_us
            };
            places.filter(near)
        };
        if one.is_kept || around(self.context).any(|place| group[place].is_kept) {
            return true;
        }
        let n = around(5).count() as f64;
        let c = around(5).filter(|place| group[*place].is_kept).count() as f64;
        let busy = if n == 0.0 { 0.0 } else { n / 10.0 + 2.0 * c / n };
        let hash = xxhash_rust::xxh3::xxh3_64(one.key.as_bytes());
        let drawn = (hash / 2_048) as f64 / 9_007_199_254_740_992.0;
        drawn < (self.rate * (1.0 + busy.min(3.0))).min(1.0)
    }
}

fn totals() -> Model {
    Model {
        from: vec!["thin"],
        time: "timestamp",
        zone: Tz::UTC,
        windows: vec!["1m", "1h"],
        condition: None,
        by: vec![By::text("user_id", "user_id", |e, _| e.get("user_id"))],
        measures: vec![
            Measure::new("n", "count(*)", Kind::Count, |_, _| Cell::Boolean(true)),
            Measure::new("total", "sum(properties.price)", Kind::Sum, |e, _| {
                e.get("properties.price")
            }),
        ],
    }
}

/// A sample of sources, and an aggregate and derived rows that read it.
struct Case {
    keep: Option<(&'static str, Holds)>,
    condition: Option<(&'static str, Holds)>,
    by: &'static [&'static str],
    rule: Rule,
    operators: String,
    deployment: Arc<Deployment>,
}

impl Case {
    fn random(random: &mut Random) -> Self {
        let sources = 1 + random.below(2);
        let lateness: Vec<_> =
            (0..sources).map(|_| random.pick(&["0s", "1s", "30s", "10m"])).collect();
        let (keep, condition) = (random.pick(&KEEP), random.pick(&CONDITIONS));
        let by = random.pick(&BY);
        let mut rule = Rule { context: 5, within_us: 60_000_000, rate: 0.1 };
        let from: Vec<String> = (0..sources).map(|index| format!("\"events{index}\"")).collect();
        let mut operators =
            format!("[operators.thin]\ntype = \"sample\"\nfrom = [{}]\n", from.join(", "));
        if let Some((keep, _)) = keep {
            operators += &format!("keep = \"{keep}\"\n");
        }
        if let Some((condition, _)) = condition {
            operators += &format!("where = \"{condition}\"\n");
        }
        if !by.is_empty() {
            operators += &format!("by = {by:?}\n");
        }
        if random.once_in(2) {
            rule.context = random.pick(&[0, 1, 2, 7]);
            operators += &format!("context = {}\n", rule.context);
        }
        if random.once_in(2) {
            let (setting, within_us) =
                random.pick(&[("0s", 0), ("1s", 1_000_000), ("1h", 3_600_000_000)]);
            rule.within_us = within_us;
            operators += &format!("context_within = \"{setting}\"\n");
        }
        if random.once_in(2) {
            rule.rate = random.pick(&[0.0, 0.25, 0.5, 1.0]);
            operators += &format!("rate = {:?}\n", rule.rate);
        }
        operators += &totals().toml("totals");
        operators += "[operators.each]\ntype = \"derive\"\nfrom = \"thin\"\n\
                      columns.venue = \"properties.venue\"\ncolumns.id = \"id\"\n\
                      columns.twice = \"user_id * 2\"\n";
        let deployment = deployment(&lateness, &operators).expect("a deployment");
        Self { keep, condition, by, rule, operators, deployment }
    }

    fn is_dead(&self, event: &Event) -> bool {
        let passes = self.condition.is_none_or(|(_, holds)| holds(event) == Some(true));
        let long = |path: &&str| event.get(path).canonical().is_some_and(|t| t.len() > 1024);
        passes && (self.by.iter().any(long) || long(&"user_id"))
    }

    /// The events that are out.
    fn passing<'e>(&self, prefix: &'e Prefix) -> Vec<&'e Event> {
        let candidates = prefix.events.iter().enumerate().filter_map(|(index, event)| {
            if self.condition.is_some_and(|(_, holds)| holds(event) != Some(true)) {
                return None;
            }
            Some(Candidate {
                group: self.by.iter().map(|path| event.get(path).canonical()).collect(),
                time_us: event.timestamp_us,
                // The events of a source stand in the order of the log.
                order: (event.source, index),
                key: event.key(),
                is_kept: self.keep.is_some_and(|(_, holds)| holds(event) == Some(true)),
                index,
            })
        });
        let passing = self.rule.passing(candidates.collect(), prefix.watermark_us);
        passing.into_iter().map(|index| &prefix.events[index]).collect()
    }

    fn check(&self, workers: usize, script: &Script) -> Result<(), String> {
        let totals = totals();
        let expected = &mut |prefix: &Prefix| {
            let passing = self.passing(prefix);
            let contributions: Vec<_> =
                passing.iter().filter_map(|event| totals.contribution(*event)).collect();
            let each = passing.iter().map(|event| {
                let key = Value::text(&event.key());
                let row = vec![
                    Expected::Is(key.clone()),
                    Expected::Is(Value::Timestamp(event.timestamp_us)),
                    Expected::Is(event.get("properties.venue").text_value()),
                    Expected::Is(event.get("id").text_value()),
                    Expected::near(event.get("user_id").double().map(|user| user * 2.0)),
                ];
                (vec![key], row)
            });
            vec![ExpectedRows::new(), totals.expected(&contributions), each.collect()]
        };
        check(&self.deployment, workers, script, &|event| self.is_dead(event), expected)
    }
}

fn log(random: &mut Random, count: usize, lateness_us: &[i64]) -> Vec<Message> {
    let mut timelines = Timeline::each(random, Tz::UTC, lateness_us);
    let users = random.pick(&[1, 3, 6]);
    let rare = random.pick(&[2, 12]);
    (1..=count as u64)
        .map(|sequence| {
            let source = random.below(timelines.len());
            let time_us = timelines[source].next(random);
            let kind = match random.below(rare) {
                0 => "\"FILL\"",
                _ => random.pick(&["\"quote\"", "\"noise\"", "\"qu\\u006fte\"", "null"]),
            };
            const USERS: [&str; 6] = ["1", "\"u2\"", "null", "1.0", "\"\\u0000\"", "\"1\""];
            let user = random.pick(&USERS[..users]);
            let price = random.pick(&["1", "2.0", "null", "\"2\"", "\"x\"", "3"]);
            let long = format!("\"{}\"", "v".repeat(1_025));
            let venue = random.pick(&["\"X\"", "\"Y\"", "null", "{\"b\":[1]}"]);
            let venue = if random.once_in(40) { &long } else { venue };
            let id = if random.once_in(3) { "\"id\":12345678901234567890," } else { "" };
            let timestamp = Timeline::spell(time_us, random);
            let payload = format!(
                "{{{id}\"timestamp\":{timestamp},\"event_type\":{kind},\"user_id\":{user},\
                 \"properties\":{{\"price\":{price},\"venue\":{venue}}}}}"
            );
            let (subject, received_at_us) = ("a.b".to_owned(), Some(time_us));
            Message { source, sequence, subject, received_at_us, payload }
        })
        .collect()
}

#[test]
fn every_epoch_equals_the_rule() {
    cases("every epoch equals the rule", 60, |random| {
        let case = Case::random(random);
        let count = random.pick(&[5, 30, 80]);
        let log = log(random, count, &lateness_us(&case.deployment));
        check_random_cuts(&log, random, |workers, script| case.check(workers, script))
            .map_err(|failure| format!("{}{failure}", case.operators))
    });
}

#[test]
fn workers_cuts_and_orders_do_not_show() {
    cases("workers, cuts and orders do not show", 8, |random| {
        let operator = "[operators.thin]\ntype = \"sample\"\nfrom = \"events0\"\nby = \"user_id\"\n\
                        keep = \"event_type = 'FILL'\"\ncontext = 1\nrate = 0.4\n";
        let deployment = deployment_into(&["30s"], operator, &["thin"]).expect("a deployment");
        let log = log(random, 50, &[30_000_000]);
        let rows = |workers: usize, log: &[Message], random: &mut Random| {
            // Otherwise it is open at the end whether the last ones pass.
            let script = Script { is_final: true, ..Script::random(log, random) };
            final_rows(&run(&deployment, workers, &script)?, 0)
        };
        let wanted = rows(1, &log, random)?;
        for workers in [1, 2, 3] {
            let log = shuffled(&log, &[30_000_000], &|_| false, random);
            let found = rows(workers, &log, random)?;
            if found != wanted {
                return Err(format!("{workers} workers\n{found:#?}\ninstead of\n{wanted:#?}"));
            }
        }
        Ok(())
    });
}

/// Of rows that change, what comes out is what they were in the end.
#[test]
fn a_sample_of_changing_rows_equals_the_rule() {
    cases("a sample of changing rows equals the rule", 25, |random| {
        let model = Model::trades_per_user(vec!["1m"]);
        let (time, behind_us) = random.pick(&[("window_start", 60_000_000), ("window_end", 0)]);
        let rule = Rule { context: 1, within_us: 120_000_000, rate: 0.3 };
        let operators = model.toml("per_user")
            + &format!(
                "[operators.thin]\ntype = \"sample\"\nfrom = \"per_user\"\ntime = \"{time}\"\n\
                 keep = \"trades > 2\"\nby = \"user_id\"\ncontext = 1\ncontext_within = \"2m\"\nrate = 0.3\n"
            );
        let deployment = deployment(&["30s"], &operators).expect("a deployment");
        let expected = |prefix: &Prefix| {
            let contributions: Vec<_> =
                prefix.events.iter().filter_map(|event| model.contribution(event)).collect();
            let rows = model.expected(&contributions);
            let items = model.items(&rows);
            let candidates =
                items.iter().zip(rows.keys()).enumerate().map(|(index, (item, key))| {
                    let Cell::Time(time_us) = item.get(time) else { panic!("no time") };
                    let key: Vec<String> = key.iter().map(Value::to_plain).collect();
                    Candidate {
                        group: item.get("user_id").canonical().map(|user| vec![user]),
                        time_us,
                        order: key.join("|"),
                        key: key.join("|"),
                        is_kept: item.get("trades").greater(2.0) == Some(true),
                        index,
                    }
                });
            let watermark_us = match prefix.watermark_us {
                i64::MIN | i64::MAX => prefix.watermark_us,
                watermark_us => watermark_us - behind_us,
            };
            let passing = rule.passing(candidates.collect(), watermark_us);
            let out = rows.iter().enumerate().filter(|(index, _)| passing.contains(index));
            let out = out.map(|(_, (key, row))| (key.clone(), row.clone())).collect();
            vec![rows, out]
        };
        let is_dead = |event: &Event| model.is_dead(event);
        let log = log(random, 50, &[30_000_000]);
        check_random_cuts(&log, random, |workers, script| {
            check(&deployment, workers, script, &is_dead, &mut |prefix| expected(prefix))
        })
    });
}

/// Ten events per second for 1,000 seconds.
fn steady(settings: &str, sink: &[&str]) -> (Arc<Deployment>, Script) {
    let operator = format!("[operators.thin]\ntype = \"sample\"\nfrom = \"events0\"\n{settings}");
    let deployment = deployment_into(&["1s"], &operator, sink).expect("a deployment");
    let mut steps = Vec::new();
    for index in 0..10_000u64 {
        let payload =
            format!("{{\"timestamp\":{},\"k\":{}}}", 1_700_000_000_000 + index * 100, index % 100);
        steps.push(Step::Message(Message { sequence: index + 1, payload, ..Message::default() }));
        if index % 20 == 19 {
            steps.push(Step::Batch { worker: index as usize / 20 });
            steps.push(Step::Epoch);
        }
    }
    (deployment, Script { steps, in_flight: 2, is_final: true })
}

#[test]
fn about_as_many_pass_as_the_rate_says() {
    // With ten neighbours at hand the rate is doubled.
    for (settings, least, most) in
        [("", 1_880, 2_120), ("context_within = \"0s\"\n", 910, 1_090), ("rate = 0\n", 0, 0)]
    {
        let (deployment, script) = steady(settings, &["thin"]);
        let rows = final_rows(&run(&deployment, 2, &script).expect("a run"), 0).expect("rows");
        assert!((least..=most).contains(&rows.len()), "{settings}: {} pass", rows.len());
    }
}

#[test]
fn state_is_bounded_by_what_is_not_decided() {
    let (deployment, mut script) = steady("by = \"k\"\ncontext_within = \"5s\"\n", &[]);
    script.is_final = false;
    script.add_long_after(1);
    for workers in [1, 2] {
        let epochs = run(&deployment, workers, &script).expect("a run").epochs;
        let state = |epoch: usize| epochs[epoch].state_bytes[0];
        let most = (100..500).map(state).max().unwrap();
        let early = (20..100).map(state).max().unwrap();
        assert!(early > 0, "nothing is held");
        assert!(most <= 2 * early, "{workers} workers hold {most} bytes, early {early}");
        let left = state(epochs.len() - 1);
        assert!(left < 1_000, "{workers} workers hold {left} bytes of what is long past");
    }
}

/// The ordinals of the events that pass of these: source, ordinal, seconds, type.
fn passing(settings: &str, events: &[(usize, u64, u64, &str)]) -> Vec<String> {
    let operators = format!(
        "[operators.thin]\ntype = \"sample\"\nfrom = [\"events0\", \"events1\"]\n\
         keep = \"event_type = 'FILL'\"\n{settings}\
         [operators.each]\ntype = \"derive\"\nfrom = \"thin\"\ncolumns.n = \"sequence\"\n"
    );
    let deployment = deployment(&["0s", "0s"], &operators).expect("a deployment");
    let steps = events.iter().flat_map(|(source, sequence, seconds, kind)| {
        let seconds = 1_700_000_000 + seconds;
        let payload = format!("{{\"timestamp\":{seconds},\"event_type\":\"{kind}\"}}");
        let (source, sequence) = (*source, *sequence);
        [
            Step::Message(Message { source, sequence, payload, ..Message::default() }),
            Step::Batch { worker: 0 },
            Step::Epoch,
        ]
    });
    let script = Script { steps: steps.collect(), in_flight: 0, is_final: true };
    let rows = final_rows(&run(&deployment, 1, &script).expect("a run"), 1).expect("rows");
    let mut found: Vec<String> = rows.iter().map(|row| row.values()[2].to_plain()).collect();
    found.sort();
    found
}

/// SPEC 4: neighbours stand in the order of timestamp, source, sequence.
#[test]
fn of_one_moment_the_events_of_the_first_source_come_first() {
    let events = [(1, 1, 0, "FILL"), (0, 2, 0, "quote"), (1, 3, 0, "quote"), (0, 4, 0, "quote")];
    assert_eq!(passing("rate = 0\ncontext = 1\n", &events), ["1", "3", "4"]);
    // Streams count each from one.
    let twins = [(0, 1, 0, "quote"), (1, 1, 0, "quote")];
    assert_eq!(passing("rate = 1\n", &twins), ["1", "1"]);
}

/// Each event is decided in an epoch of its own, when all that pass because of the first are decided
/// but the last.
#[test]
fn the_last_of_the_context_passes_though_all_before_it_are_decided() {
    let kind = |index: u64| if index == 0 { "FILL" } else { "quote" };
    let events: Vec<_> = (0..14)
        .map(|index| [(0, index + 1, index * 12, kind(index)), (1, index + 1, index * 12, "other")])
        .collect();
    let events: Vec<_> = events.concat();
    let settings = "where = \"event_type <> 'other'\"\nrate = 0\ncontext = 5\n";
    assert_eq!(passing(settings, &events), ["1", "2", "3", "4", "5", "6"]);
}
