//! Funnels against the rules of SPEC 4 read out step by step, at the end of every epoch, and against
//! themselves under other workers, cuts and orders.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono_tz::Tz;
use waterwheel_config::units::parse_duration;
use waterwheel_config::value::Value;
use waterwheel_pipeline::graph::Deployment;

mod history;
mod truth;

use crate::testing::{
    Cell, Event, Expected, ExpectedRows, Holds, Item, Message, Model, Prefix, Random, Script, Step,
    Timeline, cases, check, check_random_cuts, check_same_rows, deployment, lateness_us, naive,
    run,
};

/// A step: name, SQL, and the same by hand.
type StepModel = (&'static str, &'static str, Holds);

const STEPS: [StepModel; 8] = [
    ("visit", "event_type = 'visit'", |e| Some(e.get("event_type").is_text("visit"))),
    ("signup", "event_type = 'signup'", |e| Some(e.get("event_type").is_text("signup"))),
    ("order", "event_type = 'order'", |e| Some(e.get("event_type").is_text("order"))),
    ("fill", "event_type = 'fill'", |e| Some(e.get("event_type").is_text("fill"))),
    // These overlap with the others and with each other.
    ("any", "event_type IS NOT NULL", |e| Some(!e.get("event_type").is_null())),
    ("big", "properties.amount > 2", |e| e.get("properties.amount").greater(2.0)),
    ("dear", "properties.amount > 3", |e| e.get("properties.amount").greater(3.0)),
    ("visit again", "event_type = 'visit'", |e| Some(e.get("event_type").is_text("visit"))),
];

const CONDITIONS: [Option<(&str, Holds)>; 3] = [
    None,
    None,
    Some(("properties.amount IS NOT NULL", |e| Some(!e.get("properties.amount").is_null()))),
];

const ORDERS: [&str; 3] = ["ordered", "strict", "any"];

/// What of an item counts in a funnel.
#[derive(Clone, Debug)]
struct Entry {
    breakdown: Value,
    user: String,
    time_us: i64,
    source: usize,
    sequence: u64,
    steps: Vec<usize>,
}

/// A funnel.
#[derive(Clone)]
struct Funnel {
    from: Vec<&'static str>,
    time: &'static str,
    by: &'static str,
    zone: Tz,
    condition: Option<(&'static str, Holds)>,
    steps: Vec<StepModel>,
    within: &'static str,
    window: &'static str,
    order: &'static str,
    breakdown: Option<&'static str>,
}

/// The times of a user's path, and what its first event says of the breakdown.
type Path = (Vec<i64>, Value);

impl Funnel {
    fn toml(&self, name: &str) -> String {
        let from: Vec<String> = self.from.iter().map(|from| format!("\"{from}\"")).collect();
        let mut toml =
            format!("[operators.{name}]\ntype = \"funnel\"\nfrom = [{}]\n", from.join(", "));
        if self.time != "timestamp" {
            toml += &format!("time = \"{}\"\n", self.time);
        }
        if self.by != "user_id" {
            toml += &format!("by = \"{}\"\n", self.by);
        }
        if self.zone != Tz::UTC {
            toml += &format!("timezone = \"{}\"\n", self.zone.name());
        }
        if let Some((condition, _)) = self.condition {
            toml += &format!("where = \"{condition}\"\n");
        }
        if self.order != "ordered" {
            toml += &format!("order = \"{}\"\n", self.order);
        }
        if let Some(breakdown) = self.breakdown {
            toml += &format!("breakdown = \"{breakdown}\"\n");
        }
        let step =
            |(name, sql, _): &StepModel| format!("{{ name = \"{name}\", where = \"{sql}\" }}");
        let steps: Vec<String> = self.steps.iter().map(step).collect();
        let steps = steps.join(", ");
        toml + &format!(
            "steps = [{steps}]\nwithin = \"{}\"\nwindow = \"{}\"\n",
            self.within, self.window
        )
    }

    fn passes(&self, item: &dyn Item) -> bool {
        self.condition.is_none_or(|(_, holds)| holds(item) == Some(true))
    }

    fn entry(&self, item: &dyn Item, source: usize, sequence: u64) -> Option<Entry> {
        let Cell::Time(time_us) = item.get(self.time) else { return None };
        let matches = |step: &usize| self.steps[*step].2(item) == Some(true);
        let steps: Vec<usize> = (0..self.steps.len()).filter(matches).collect();
        let user = item.get(self.by).canonical()?;
        let breakdown = self.breakdown.map_or(Value::Null, |path| item.get(path).text_value());
        self.passes(item).then_some(Entry { breakdown, user, time_us, source, sequence, steps })
    }

    /// True if a text is too long for the key that it is wanted for: a user's, or the breakdown of an
    /// event that a path may begin with.
    fn is_dead(&self, event: &Event) -> bool {
        let is_long =
            |name: &str| event.get(name).canonical().is_some_and(|text| text.len() > 1024);
        let begins = |index: usize| self.steps[index].2(event) == Some(true);
        let may_begin = match self.order {
            "any" => (0..self.steps.len()).any(begins),
            _ => begins(0),
        };
        let has_user = !event.get(self.by).is_null();
        let needs_breakdown = self.breakdown.filter(|_| may_begin && has_user);
        self.passes(event) && (is_long(self.by) || needs_breakdown.is_some_and(is_long))
    }

    /// The rows of all entries.
    fn expected(&self, entries: &[Entry]) -> ExpectedRows {
        let mut users: BTreeMap<&str, Vec<&Entry>> = BTreeMap::new();
        for entry in entries {
            users.entry(&entry.user).or_default().push(entry);
        }
        let mut paths: BTreeMap<(i64, i64, Value), Vec<Vec<i64>>> = BTreeMap::new();
        for mut entries in users.into_values() {
            entries.sort_by_key(|entry| {
                let lowest = entry.steps.first().copied().unwrap_or(usize::MAX);
                (entry.time_us, lowest, entry.source, entry.sequence)
            });
            let periods: BTreeSet<(i64, i64)> = entries
                .iter()
                .map(|entry| naive::window(self.window, self.zone, entry.time_us))
                .collect();
            for period in periods {
                let path = match self.order {
                    "ordered" => self.ordered(&entries, period),
                    "strict" => self.strict(&entries, period),
                    _ => self.any(&entries, period),
                };
                if let Some((path, breakdown)) = path {
                    paths.entry((period.0, period.1, breakdown)).or_default().push(path);
                }
            }
        }
        paths.into_iter().flat_map(|(group, paths)| self.rows(&group, &paths)).collect()
    }

    fn within_us(&self) -> i64 {
        parse_duration(self.within).expect("a duration")
    }

    /// The path of a user in a period: the rule of SPEC 4, word by word.
    fn ordered(&self, entries: &[&Entry], (start_us, end_us): (i64, i64)) -> Option<Path> {
        let mut chains: Vec<Option<Path>> = vec![None; self.steps.len()];
        let mut best: Option<Path> = None;
        for entry in entries {
            for &step in entry.steps.iter().rev() {
                if step == 0 {
                    if (start_us..end_us).contains(&entry.time_us) {
                        chains[0] = Some((vec![entry.time_us], entry.breakdown.clone()));
                    } else {
                        continue;
                    }
                } else if let Some((before, breakdown)) = chains[step - 1].clone()
                    && entry.time_us - before[0] <= self.within_us()
                {
                    let times = before.into_iter().chain([entry.time_us]).collect();
                    chains[step] = Some((times, breakdown));
                } else {
                    continue;
                }
                if best.as_ref().is_none_or(|(best, _)| best.len() < step + 1) {
                    best.clone_from(&chains[step]);
                }
            }
        }
        best
    }

    /// From each entry the very next event must match the next step; the best attempt wins, the
    /// earliest among equals.
    fn strict(&self, entries: &[&Entry], (start_us, end_us): (i64, i64)) -> Option<Path> {
        let mut best: Option<Path> = None;
        for (first, entry) in entries.iter().enumerate() {
            if !(start_us..end_us).contains(&entry.time_us) || !entry.steps.contains(&0) {
                continue;
            }
            let goes_on = |(step, next): &(usize, &&Entry)| {
                next.steps.contains(step) && next.time_us - entry.time_us <= self.within_us()
            };
            let attempt = entries[first + 1..].iter().enumerate().map(|(at, next)| (at + 1, next));
            let rest = attempt.take(self.steps.len() - 1).take_while(goes_on);
            let times: Vec<i64> =
                [entry.time_us].into_iter().chain(rest.map(|(_, next)| next.time_us)).collect();
            if best.as_ref().is_none_or(|(best, _)| best.len() < times.len()) {
                best = Some((times, entry.breakdown.clone()));
            }
        }
        best
    }

    /// From each entry, which matches any step, the distinct steps seen within the window; the best
    /// entry wins, the earliest among equals.
    fn any(&self, entries: &[&Entry], (start_us, end_us): (i64, i64)) -> Option<Path> {
        let mut best: Option<Path> = None;
        for (first, entry) in entries.iter().enumerate() {
            if !(start_us..end_us).contains(&entry.time_us) || entry.steps.is_empty() {
                continue;
            }
            let (mut seen, mut times) = (BTreeSet::new(), Vec::new());
            for next in &entries[first..] {
                if next.time_us - entry.time_us <= self.within_us() {
                    let new = next.steps.iter().filter(|step| seen.insert(**step));
                    times.extend(new.map(|_| next.time_us));
                }
            }
            if best.as_ref().is_none_or(|(best, _)| best.len() < times.len()) {
                best = Some((times, entry.breakdown.clone()));
            }
        }
        best
    }

    fn rows(&self, group: &(i64, i64, Value), paths: &[Vec<i64>]) -> ExpectedRows {
        let (start_us, end_us, breakdown) = group;
        let users = |step: usize| paths.iter().filter(|path| path.len() > step).count();
        let ratio = |part: usize, whole: usize| (whole > 0).then(|| part as f64 / whole as f64);
        let average = |step: usize, from: fn(&[i64], usize) -> i64| {
            let reached = paths.iter().filter(|path| path.len() > step);
            let times: Vec<f64> =
                reached.map(|path| (path[step] - from(path, step)) as f64).collect();
            let mean = (!times.is_empty()).then(|| times.iter().sum::<f64>() / times.len() as f64);
            Expected::near(mean.filter(|_| step > 0).map(|mean_us| mean_us / 1e6))
        };
        let row = |(step, (name, _, _)): (usize, &StepModel)| {
            let conversion =
                if step == 0 { Some(1.0) } else { ratio(users(step), users(step - 1)) };
            let number = Value::Bigint(step as i64 + 1);
            let name = match self.order {
                "any" => format!("{} of {}", step + 1, self.steps.len()),
                _ => (*name).to_owned(),
            };
            let start = Value::Timestamp(*start_us);
            let breakdown = self.breakdown.map(|_| breakdown.clone());
            let row = [start.clone(), Value::Timestamp(*end_us)]
                .into_iter()
                .chain(breakdown.clone())
                .chain([number.clone(), Value::text(&name)])
                .map(Expected::Is)
                .chain([
                    Expected::bigint(users(step) as i64),
                    Expected::near(conversion),
                    Expected::near(conversion.map(|conversion| 1.0 - conversion)),
                    Expected::near(ratio(users(step), users(0))),
                    average(step, |path, step| path[step.saturating_sub(1)]),
                    average(step, |path, _| path[0]),
                ])
                .collect();
            ([start].into_iter().chain(breakdown).chain([number]).collect(), row)
        };
        self.steps.iter().enumerate().map(row).collect()
    }
}

/// A funnel over sources, with what it needs.
struct Case {
    funnel: Funnel,
    lateness: Vec<&'static str>,
    deployment: Arc<Deployment>,
}

impl Case {
    fn random(random: &mut Random) -> Self {
        let sources = 1 + usize::from(random.once_in(3));
        let lateness: Vec<_> =
            (0..sources).map(|_| random.pick(&["0s", "1s", "30s", "10m", "1d"])).collect();
        let funnel = Funnel {
            from: ["events0", "events1"][..sources].to_vec(),
            time: "timestamp",
            by: random.pick(&["user_id", "session_id"]),
            zone: random.pick(&[Tz::UTC, Tz::Europe__Berlin, Tz::America__New_York]),
            condition: random.pick(&CONDITIONS),
            steps: random.some(&STEPS, 2, 5),
            within: random.pick(&["0s", "10s", "5m", "1h", "1d", "1w"]),
            window: random.pick(&["1m", "15m", "1h", "1d", "1w", "1mo"]),
            order: random.pick(&ORDERS),
            breakdown: random.pick(&[None, Some("properties.venue"), Some("event_type")]),
        };
        let deployment = deployment(&lateness, &funnel.toml("steps")).expect("a deployment");
        Self { funnel, lateness, deployment }
    }

    fn log(&self, random: &mut Random, count: usize) -> Vec<Message> {
        log(random, count, self.funnel.zone, &lateness_us(&self.deployment))
    }

    fn check(&self, workers: usize, script: &Script) -> Result<(), String> {
        let is_dead = |event: &Event| self.funnel.is_dead(event);
        let expected = &mut |prefix: &Prefix| {
            let entry = |event: &Event| self.funnel.entry(event, event.source, event.sequence);
            let entries: Vec<Entry> = prefix.events.iter().filter_map(entry).collect();
            vec![self.funnel.expected(&entries)]
        };
        check(&self.deployment, workers, script, &is_dead, expected)
    }

    fn describe(&self, failure: String) -> String {
        format!("{}lateness {:?}\n{failure}", self.funnel.toml("steps"), self.lateness)
    }
}

/// A log of a few users.
fn log(random: &mut Random, count: usize, zone: Tz, lateness_us: &[i64]) -> Vec<Message> {
    const USERS: [&str; 8] = ["\"u1\"", "\"u2\"", "\"u3\"", "1", "1.0", "\"1\"", "null", "true"];
    let mut timelines = Timeline::each(random, zone, lateness_us);
    let users = 1 + random.below(USERS.len());
    let has_bad_messages = random.once_in(4);
    let message = |sequence| {
        let source = random.below(timelines.len());
        let time_us = timelines[source].next(random);
        let mut user = random.pick(&USERS[..users]).to_string();
        if has_bad_messages && random.once_in(15) {
            user = format!("\"{}\"", "u".repeat(random.pick(&[1024, 1025])));
        }
        let kind = random.pick(&["visit", "visit", "signup", "order", "fill", "other"]);
        let amount = random.pick(&["1", "2.5", "3", "4", "null", "\"5\"", "true"]);
        let mut venue = random.pick(&["\"X\"", "\"Y\"", "1", "1.0", "null"]).to_owned();
        if has_bad_messages && random.once_in(15) {
            venue = format!("\"{}\"", "v".repeat(random.pick(&[1024, 1025])));
        }
        let payload = format!(
            "{{\"timestamp\":{},\"event_type\":\"{kind}\",\"user_id\":{user},\"session_id\":{},\
             \"properties\":{{\"amount\":{amount},\"venue\":{venue}}}}}",
            Timeline::spell(time_us, random),
            random.pick(&USERS[..users])
        );
        let received_at_us = Some(time_us);
        Message { source, sequence, subject: "a.b".to_owned(), received_at_us, payload }
    };
    (1..=count as u64).map(message).collect()
}

#[test]
fn every_epoch_equals_the_rules() {
    cases("every epoch equals the rules", 400, |random| {
        let case = Case::random(random);
        let count = random.pick(&[5, 20, 60, 120]);
        let log = case.log(random, count);
        check_random_cuts(&log, random, |workers, script| case.check(workers, script))
            .map_err(|failure| case.describe(failure))
    });
}

#[test]
fn workers_cuts_and_orders_do_not_show() {
    cases("workers, cuts and orders do not show", 100, |random| {
        let case = Case::random(random);
        let log = case.log(random, 60);
        check_same_rows(&case.deployment, &log, &|event| case.funnel.is_dead(event), random)
            .map_err(|failure| case.describe(failure))
    });
}

/// Rows of an aggregate as the events of a funnel: they change their steps, and are taken back.
#[test]
fn a_funnel_over_changing_rows_equals_the_rules() {
    // Each row is in one step at most, since rows have no sequence that a test could know.
    const ROW_STEPS: [StepModel; 3] = [
        ("one", "trades = 1", |r| Some(r.get("trades") == Cell::Integer(1))),
        ("two", "trades = 2", |r| Some(r.get("trades") == Cell::Integer(2))),
        ("more", "trades > 2", |r| r.get("trades").greater(2.0)),
    ];
    cases("a funnel over changing rows equals the rules", 150, |random| {
        let lateness = random.pick(&["0s", "30s", "10m"]);
        let windows = random.pick(&[vec!["1m"], vec!["10m", "15m"], vec!["1d"]]);
        let model = Model::trades_per_user(windows.clone());
        let mut steps = ROW_STEPS.to_vec();
        if random.once_in(2) {
            steps.reverse();
        }
        let funnel = Funnel {
            from: vec!["per_user"],
            time: random.pick(&["window_start", "window_end"]),
            by: "user_id",
            zone: random.pick(&[Tz::UTC, Tz::Europe__Berlin]),
            condition: None,
            steps,
            within: random.pick(&["0s", "5m", "1h", "1d", "1w"]),
            window: random.pick(&["1m", "1h", "1d", "1mo"]),
            order: random.pick(&ORDERS),
            // Where a user has one row at a time, it may be one that changes.
            breakdown: match windows.len() {
                1 => random.pick(&[None, Some("user_id"), Some("trades")]),
                _ => random.pick(&[None, Some("user_id")]),
            },
        };
        let operators = model.toml("per_user") + &funnel.toml("steps");
        let deployment = deployment(&[lateness], &operators).expect("a deployment");
        let expected = |prefix: &Prefix| {
            let contributions: Vec<_> =
                prefix.events.iter().filter_map(|event| model.contribution(event)).collect();
            let rows = model.expected(&contributions);
            let entries: Vec<Entry> =
                model.items(&rows).iter().filter_map(|row| funnel.entry(row, 0, 0)).collect();
            let steps = funnel.expected(&entries);
            vec![rows, steps]
        };
        let count = random.pick(&[8, 40, 80]);
        let log = log(random, count, Tz::Europe__Berlin, &lateness_us(&deployment));
        let is_dead = |event: &Event| model.is_dead(event);
        check_random_cuts(&log, random, |workers, script| {
            check(&deployment, workers, script, &is_dead, &mut |prefix| expected(prefix))
        })
        .map_err(|failure| format!("{operators}lateness {lateness}\n{failure}"))
    });
}

#[test]
fn state_goes_with_the_periods() {
    cases("state goes with the periods", 30, |random| {
        let case = Case::random(random);
        let log = case.log(random, 60);
        let mut script = Script::random(&log, random);
        // These events belong to nobody.
        script.add_long_after(case.lateness.len());
        let run = run(&case.deployment, 2, &script)?;
        match run.epochs.last().map(|epoch| epoch.state_bytes[0]) {
            Some(0) => Ok(()),
            left => Err(case.describe(format!("{left:?} bytes are left\n{script}"))),
        }
    });
}

/// A hundred reporting periods of new users: what counts are those of the periods that are open.
#[test]
fn state_is_that_of_the_open_periods() {
    for order in ["ordered", "strict", "any"] {
        let toml = format!(
            "[operators.steps]\ntype = \"funnel\"\nfrom = \"events0\"\nby = \"user_id\"\n\
             within = \"5s\"\nwindow = \"1m\"\norder = \"{order}\"\n\
             steps = [{{ name = \"a\", where = \"event_type = 'a'\" }},\n\
             {{ name = \"b\", where = \"event_type = 'b'\" }}]\n"
        );
        let deployment = deployment(&["5s"], &toml).expect("a deployment");
        // Ten users a minute, of four events each.
        let message = |index: u64| {
            let (minute, within) = (index / 40, index % 40);
            let kind = if within % 20 < 10 { "a" } else { "b" };
            let payload = format!(
                "{{\"timestamp\":{},\"event_type\":\"{kind}\",\"user_id\":\"{minute}:{}\"}}",
                1_700_000_040 + minute * 60 + within,
                within % 10
            );
            Step::Message(Message { sequence: index + 1, payload, ..Message::default() })
        };
        let minute = |minute: u64| {
            (minute * 40..(minute + 1) * 40).map(message).chain([Step::Epoch]).collect::<Vec<_>>()
        };
        let steps = (0..100).flat_map(minute).collect();
        let script = Script { steps, in_flight: 0, is_final: false };
        let run = run(&deployment, 2, &script).expect("a run");
        let bytes: Vec<usize> = run.epochs.iter().map(|epoch| epoch.state_bytes[0]).collect();
        let (early, late) = (bytes[5..20].iter().max().unwrap(), bytes[20..].iter().max().unwrap());
        assert!(*late > 0 && late <= &(early + early / 4), "{order}: {early} early, {late} late");
    }
}
