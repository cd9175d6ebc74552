//! `cargo xtask bench operators`: what each operator costs per event and holds per live key, beside
//! a pipeline that only counts. Nothing becomes final in a run, so that all state is there at its end.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::usage::{Usage, measure};
use super::{middle, publish};
use crate::Outcome;
use crate::process::{build, output, root};
use crate::scratch::Scratch;
use crate::text::{decimal, table, whole};
use crate::tools;

const DEFAULT_EVENTS: u64 = 1_000_000;
const ROUNDS: usize = 3;

/// One operator, as it stands in a deployment.
struct Case {
    name: &'static str,
    /// What the deployment says; the operator is called `it`.
    operator: &'static str,
    /// What else its source says.
    source: &'static str,
    /// Which expression over the table `events` counts its live keys; none where it holds nothing.
    live_keys: Option<&'static str>,
}

impl Case {
    /// True of an operator of this kind.
    fn is_a(&self, kind: &str) -> bool {
        self.operator.starts_with(&format!("type = \"{kind}\""))
    }
}

const fn case(name: &'static str, operator: &'static str, live_keys: Option<&'static str>) -> Case {
    Case { name, operator, source: "", live_keys }
}

const USERS: Option<&str> = Some("count(DISTINCT user_id)");
const STEPS: &str = "[{ name = \"viewed\", where = \"event_type = 'page.viewed'\" }, \
    { name = \"signed up\", where = \"event_type = 'user.signup'\" }, \
    { name = \"paid in\", where = \"event_type = 'deposit.made'\" }, \
    { name = \"ordered\", where = \"event_type = 'order.placed'\" }]";

/// What every other case is compared with.
const COUNTING: Case = case(
    "counting alone",
    "type = \"aggregate\"\nwindows = [\"1d\"]\nmeasures.events = \"count(*)\"",
    None,
);

/// What the schema of [`CASES`] asks of an order: about as much as people ask.
const SCHEMA: &str = r#"{
    "type": "object",
    "required": ["id", "user_id", "correlation_id", "properties"],
    "properties": {
        "id": { "type": "string", "minLength": 1 },
        "user_id": { "type": "string", "pattern": "^u[0-9]+$" },
        "properties": {
            "type": "object",
            "required": ["symbol", "side", "price", "quantity"],
            "properties": {
                "symbol": { "type": "string", "maxLength": 10 },
                "side": { "enum": ["buy", "sell"] },
                "price": { "type": "number", "exclusiveMinimum": 0 },
                "quantity": { "type": "number", "exclusiveMinimum": 0 }
            }
        }
    }
}"#;
const SCHEMA_FILE: &str = "order.schema.json";

const CASES: &[Case] = &[
    COUNTING,
    Case {
        name: "counting, placed orders (22 % of the events) checked against a schema",
        source: "schemas = { \"order.placed\" = \"order.schema.json\" }\n",
        ..COUNTING
    },
    case(
        "aggregate: count, by user",
        "type = \"aggregate\"\nby = [\"user_id\"]\nwindows = [\"1w\"]\nmeasures.events = \"count(*)\"",
        USERS,
    ),
    case(
        "aggregate: 6 measures, by type and symbol, 1m",
        "type = \"aggregate\"\nby = [\"event_type\", \"properties.symbol\"]\nwindows = [\"1m\"]\n\
         measures.events = \"count(*)\"\nmeasures.total = \"sum(properties.price)\"\n\
         measures.mean = \"avg(properties.price)\"\nmeasures.least = \"min(properties.price)\"\n\
         measures.most = \"max(properties.price)\"\nmeasures.users = \"count(distinct user_id)\"",
        None,
    ),
    case(
        "aggregate: 1h every 5m, by symbol",
        "type = \"aggregate\"\nby = [\"properties.symbol\"]\nwindows = [{ size = \"1h\", every = \"5m\" }]\n\
         measures.events = \"count(*)\"\nmeasures.mean = \"avg(properties.price)\"",
        None,
    ),
    case(
        "aggregate: p95, by user",
        "type = \"aggregate\"\nby = [\"user_id\"]\nwindows = [\"1w\"]\n\
         measures.p95 = \"quantile(0.95, properties.price)\"",
        USERS,
    ),
    case(
        "aggregate: distinct correlations, by type",
        "type = \"aggregate\"\nby = [\"event_type\"]\nwindows = [\"1w\"]\n\
         measures.flows = \"count(distinct correlation_id)\"",
        Some(
            "count(DISTINCT (event_type, correlation_id)) FILTER (WHERE correlation_id IS NOT NULL)",
        ),
    ),
    case(
        "aggregate: approximately distinct, by type",
        "type = \"aggregate\"\nby = [\"event_type\"]\nwindows = [\"1w\"]\n\
         measures.flows = \"approx_count_distinct(correlation_id)\"",
        None,
    ),
    case(
        "join: orders and fills within 7 days",
        "type = \"join\"\nleft = { from = \"events\", where = \"event_type = 'order.placed'\" }\n\
         right = { from = \"events\", where = \"event_type = 'order.filled'\" }\n\
         on = \"correlation_id\"\nwithin = \"7d\"\nselect.symbol = \"left.properties.symbol\"",
        Some("count(*) FILTER (WHERE event_type IN ('order.placed', 'order.filled'))"),
    ),
    case(
        "flow, timeout 2d",
        "type = \"flow\"\ntimeout = \"2d\"\ndone = \"event_type = 'order.filled'\"",
        Some("count(DISTINCT correlation_id)"),
    ),
    case(
        "lineage within 2d, live keys are events",
        "type = \"lineage\"\nwithin = \"2d\"",
        Some("count(*)"),
    ),
    case(
        "funnel: ordered, 4 steps",
        "type = \"funnel\"\nby = \"user_id\"\nwithin = \"1h\"\nwindow = \"1d\"\norder = \"ordered\"\nsteps = STEPS",
        USERS,
    ),
    case(
        "funnel: strict, 4 steps",
        "type = \"funnel\"\nby = \"user_id\"\nwithin = \"1h\"\nwindow = \"1d\"\norder = \"strict\"\nsteps = STEPS",
        USERS,
    ),
    case(
        "funnel: any, 4 steps",
        "type = \"funnel\"\nby = \"user_id\"\nwithin = \"1h\"\nwindow = \"1d\"\norder = \"any\"\nsteps = STEPS",
        USERS,
    ),
    case(
        "retention: 12 days",
        "type = \"retention\"\nby = \"user_id\"\nstart = \"event_type = 'user.signup'\"\n\
         return = \"event_type = 'order.placed'\"\nperiod = \"1d\"\nperiods = 12",
        Some("count(DISTINCT user_id) FILTER (WHERE event_type = 'user.signup')"),
    ),
    case("sessions, gap 2d", "type = \"sessions\"\nby = \"user_id\"\ngap = \"2d\"", USERS),
    case(
        "sample: 10 %, 5 neighbours",
        "type = \"sample\"\nkeep = \"event_type = 'order.cancelled'\"\ncontext = 5\ncontext_within = \"1m\"\n\
         by = \"user_id\"\nrate = 0.1",
        None,
    ),
    case("filter", "type = \"filter\"\nwhere = \"properties.price > 100\"", None),
    case(
        "derive",
        "type = \"derive\"\ncolumns.notional = \"properties.price * properties.quantity\"",
        None,
    ),
];

/// How many events a user has, in the runs that show that a funnel does not look back at them.
const HISTORIES: [u64; 3] = [10, 1_000, 100_000];

/// Runs the bench; the only argument is the number of events.
pub(crate) fn run(arguments: &[&str]) -> Outcome<()> {
    let count = super::count(arguments, DEFAULT_EVENTS)?;
    let python = tools::python()?;
    let programs = build(&["waterwheel", "publish"])?;
    let scratch = Scratch::new()?;
    let mut bench = Bench { count, programs, python, scratch };
    let events = bench.events("events", count)?;
    let runs = bench.rounds(CASES, &[&events])?;
    let keys = bench.live_keys(&events)?;
    println!("{} events from a file, 1 worker, medians of {ROUNDS} runs\n", whole(count));
    println!("{}", operators(count, &runs, &keys));

    let histories: Vec<PathBuf> = HISTORIES
        .iter()
        .map(|history| bench.events(&format!("history-{history}"), (count / history).max(1)))
        .collect::<Outcome<_>>()?;
    let files: Vec<&Path> = histories.iter().map(PathBuf::as_path).collect();
    let funnels: Vec<&Case> = CASES.iter().filter(|case| case.is_a("funnel")).collect();
    let mut rows = Vec::new();
    for funnel in funnels {
        let runs = bench.rounds(&[COUNTING, case(funnel.name, funnel.operator, None)], &files)?;
        let costs = (0..files.len()).map(|file| {
            let micros = |case: usize| middle(&runs[case][file], |run| run.cpu_seconds);
            decimal((micros(1) - micros(0)) * 1e6 / count as f64, 2)
        });
        rows.push(std::iter::once(funnel.name.to_owned()).chain(costs).collect());
    }
    println!("\nCPU µs per event above counting, by the mean number of events of a user\n");
    let headings: Vec<String> = HISTORIES.iter().map(|history| whole(*history)).collect();
    let mut words = vec![""];
    words.extend(headings.iter().map(String::as_str));
    println!("{}", table(&words, &rows));
    Ok(())
}

struct Bench {
    count: u64,
    programs: PathBuf,
    python: PathBuf,
    scratch: Scratch,
}

impl Bench {
    /// A file of events of so many users, all on one day.
    fn events(&self, name: &str, users: u64) -> Outcome<PathBuf> {
        let file = self.scratch.path().join(format!("{name}.jsonl"));
        eprintln!("xtask: preparing {} events of {} users", whole(self.count), whole(users));
        let (text, users) = (file.to_string_lossy(), users.to_string());
        let options = ["--file", &text, "--users", &users, "--hours", "20"];
        publish(&self.programs, self.count, &options)?;
        Ok(file)
    }

    /// All cases on all files in turn; the runs by case and file.
    fn rounds(&mut self, cases: &[Case], files: &[&Path]) -> Outcome<Vec<Vec<Vec<Usage>>>> {
        let mut runs: Vec<Vec<Vec<Usage>>> =
            cases.iter().map(|_| files.iter().map(|_| Vec::new()).collect()).collect();
        for round in 1..=ROUNDS {
            for (case, runs) in cases.iter().zip(&mut runs) {
                eprintln!("xtask: round {round} of {ROUNDS}: {}", case.name);
                for (file, runs) in files.iter().zip(runs) {
                    runs.push(self.run_once(case, file)?);
                }
            }
        }
        Ok(runs)
    }

    fn run_once(&mut self, case: &Case, events: &Path) -> Outcome<Usage> {
        let directory = self.scratch.path().join("run");
        fs::create_dir_all(&directory)?;
        let (deployment, log) = (directory.join("operators.toml"), directory.join("log"));
        fs::write(&deployment, self::deployment(case))?;
        fs::write(directory.join(SCHEMA_FILE), SCHEMA)?;
        let mut command = Command::new(self.programs.join("waterwheel"));
        command.arg("run").arg(&deployment).current_dir(&directory).env("FILE", events);
        command.stdout(Stdio::null()).stderr(File::create(&log)?);
        measure(&mut command, &mut self.scratch).map_err(|problem| {
            format!("{}: {problem}\n{}", case.name, fs::read_to_string(&log).unwrap_or_default())
                .into()
        })
    }

    /// How many keys each case holds at the end, as DuckDB counts them.
    fn live_keys(&self, events: &Path) -> Outcome<Vec<Option<u64>>> {
        let script = root().join("xtask/scripts/live_keys.py");
        let expressions: Vec<&str> = CASES.iter().filter_map(|case| case.live_keys).collect();
        let said = output(Command::new(&self.python).arg(script).arg(events).args(expressions))?;
        let mut counts = said.lines().map(str::parse::<u64>);
        let mut each = |case: &Case| match case.live_keys {
            None => Ok(None),
            Some(_) => Ok(Some(counts.next().ok_or("a count is missing")??)),
        };
        CASES.iter().map(&mut each).collect()
    }
}

fn deployment(case: &Case) -> String {
    let operator = case.operator.replace("STEPS", STEPS);
    let source = case.source;
    let from = if operator.contains("left =") { "" } else { "from = \"events\"\n" };
    // What an operator passes on of events is counted behind it, not written.
    let passes_on = ["filter", "sample", "derive"].iter().any(|kind| case.is_a(kind));
    let (behind, out) = match passes_on {
        true => (
            "[operators.behind]\ntype = \"aggregate\"\nfrom = \"it\"\nwindows = [\"1d\"]\nmeasures.rows = \"count(*)\"\n",
            "behind",
        ),
        false => ("", "it"),
    };
    format!(
        "name = \"bench_operators\"\n[engine]\nworkers = 1\n\
         [sources.events]\ntype = \"file\"\npath = \"${{FILE}}\"\nuntil = \"end\"\nlateness = \"30s\"\n{source}\
         [operators.it]\n{from}{operator}\n{behind}\
         [sinks.out]\ntype = \"print\"\nfrom = [\"{out}\"]\nemit = \"final\"\n"
    )
}

fn operators(count: u64, runs: &[Vec<Vec<Usage>>], keys: &[Option<u64>]) -> String {
    let cpu = |case: usize| middle(&runs[case][0], |run| run.cpu_seconds);
    let peak = |case: usize| middle(&runs[case][0], |run| run.peak_bytes as f64);
    let row = |(index, case): (usize, &Case)| {
        let micros = |seconds: f64| decimal(seconds * 1e6 / count as f64, 2);
        let (live, bytes) = match keys[index] {
            Some(live) => {
                let bytes = (peak(index) - peak(0)) / live.max(1) as f64;
                (whole(live), decimal(bytes, 0))
            }
            None => ("-".to_owned(), "-".to_owned()),
        };
        vec![case.name.to_owned(), micros(cpu(index)), micros(cpu(index) - cpu(0)), live, bytes]
    };
    let rows: Vec<Vec<String>> = CASES.iter().enumerate().map(row).collect();
    let headings =
        ["", "CPU µs per event", "above counting", "live keys", "peak bytes per live key"];
    table(&headings, &rows)
}
