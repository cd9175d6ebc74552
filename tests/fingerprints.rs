//! Which edits of a deployment change the meaning of which operators' and sinks' rows: these, and no
//! other.

use std::collections::BTreeSet;

use waterwheel_config::document::Document;
use waterwheel_pipeline::contract::catalog::Catalog;
use waterwheel_pipeline::graph::{Deployment, plan};

const CATALOG: Catalog = Catalog {
    sources: waterwheel_sources::SOURCES,
    operators: waterwheel_operators::OPERATORS,
    sinks: waterwheel_sinks::SINKS,
};

/// Every kind of source, operator and sink.
const BASE: &str = r#"
name = "base"

[engine]
workers = 1

[sources.events]
type = "nats"
stream = "EVENTS"

[sources.history]
type = "file"
path = "a.jsonl"

[sources.market]
type = "generate"
count = 10

[operators.volume]
type = "aggregate"
from = "events"
where = "kind = 'fill'"
by = ["properties.symbol"]
windows = ["1m", "1d"]
measures.n = "count(*)"
measures.total = "sum(properties.price)"

[operators.minutes]
type = "aggregate"
from = "market"
windows = ["1m"]
measures.n = "count(*)"

[operators.both]
type = "aggregate"
from = ["events", "market"]
windows = ["1h"]
measures.n = "count(*)"

[operators.hours]
type = "aggregate"
from = "volume"
time = "window_start"
windows = ["1h"]
measures.n = "sum(n)"

[operators.pairs]
type = "join"
left = { from = "events", where = "kind = 'placed'" }
right = { from = "history", where = "kind = 'filled'" }
on = "correlation_id"
within = "30s"
select.symbol = "left.properties.symbol"

[operators.over]
type = "aggregate"
from = "pairs"
windows = ["1m"]
measures.n = "count(*)"

[operators.steps]
type = "funnel"
from = "events"
steps = [{ name = "a", where = "kind = 'a'" }, { name = "b", where = "kind = 'b'" }]
within = "1h"
window = "1d"

[operators.rates]
type = "funnel"
from = ["volume", "minutes"]
by = "granularity"
time = "window_start"
steps = [{ name = "some", where = "n > 1" }, { name = "many", where = "n > 9" }]
within = "10m"
window = "1h"

[operators.origins]
type = "lineage"
from = "events"

[operators.thin]
type = "sample"
from = "market"
keep = "kind = 'kept'"

[operators.fills]
type = "filter"
from = "history"
where = "kind = 'FILL'"

[operators.priced]
type = "derive"
from = "fills"
columns.price = "properties.price"

[sources.people]
type = "file"
path = "people.jsonl"

[operators.orders]
type = "flow"
from = "people"
done = "kind = 'shipped'"
timeout = "5m"

[operators.visits]
type = "sessions"
from = ["people"]
gap = "30m"

[operators.cohorts]
type = "retention"
from = "people"
start = "kind = 'signup'"
return = "kind = 'login'"
period = "1d"
periods = 12

[operators.runs]
type = "sessions"
from = ["volume", "minutes"]
by = "granularity"
time = "window_end"
gap = "1h"

[sinks.warehouse]
type = "postgres"
from = ["volume", "events", "pairs"]
url = "postgres://h/analytics"

[sinks.raw]
type = "postgres"
from = ["events"]
url = "postgres://h/raw"

[sinks.lake]
type = "parquet"
from = ["over", "minutes", "hours"]
path = "lake"

[sinks.archive]
type = "parquet"
from = ["history", "dead_letter"]
path = "archive"

[sinks.results]
type = "nats"
from = ["steps", "both", "rates"]
subject = "results.{operator}"

[sinks.stories]
type = "postgres"
from = ["orders", "visits", "cohorts", "runs"]
url = "postgres://h/stories"

[sinks.screen]
type = "print"
from = ["steps", "origins", "thin", "fills", "priced"]
"#;

/// Everything that rests on a source.
const EVENTS: &str = "archive both hours lake origins over pairs rates raw results runs steps stories volume warehouse";
const HISTORY: &str = "archive fills lake over pairs priced warehouse";
const MARKET: &str = "archive both lake minutes rates results runs stories thin";
/// Everything that rests on an operator, and itself.
const VOLUME: &str = "hours lake rates results runs stories volume warehouse";
const MINUTES: &str = "lake minutes rates results runs stories";
const PAIRS: &str = "lake over pairs warehouse";
const STEPS: &str = "results steps";
const ORIGINS: &str = "origins";
const THIN: &str = "thin";
const FILLS: &str = "fills priced";
const PRICED: &str = "priced";
const ORDERS: &str = "orders stories";
const VISITS: &str = "stories visits";
const COHORTS: &str = "cohorts stories";
const NOTHING: &str = "";

/// An edit of the base.
struct Edit {
    /// What is edited: `kind.key`, one or several.
    keys: &'static str,
    /// Where in the base.
    place: &'static str,
    /// What stands there before, and after.
    before: &'static str,
    after: &'static str,
    /// True if both stand behind the place, on lines of their own.
    is_behind: bool,
    /// Whose fingerprint is another after than before.
    changes: &'static str,
}

/// An edit that changes what is in the base.
const fn edit(
    keys: &'static str,
    before: &'static str,
    after: &'static str,
    changes: &'static str,
) -> Edit {
    Edit { keys, place: before, before, after, is_behind: false, changes }
}

/// An edit that puts lines behind a place.
const fn added(
    keys: &'static str,
    place: &'static str,
    after: &'static str,
    changes: &'static str,
) -> Edit {
    Edit { keys, place, before: "", after, is_behind: true, changes }
}

/// An edit of lines that are put behind a place first.
const fn behind(
    keys: &'static str,
    place: &'static str,
    before: &'static str,
    after: &'static str,
    changes: &'static str,
) -> Edit {
    Edit { keys, place, before, after, is_behind: true, changes }
}

/// An edit of a text that is put in the place of another first.
const fn instead(
    keys: &'static str,
    place: &'static str,
    before: &'static str,
    after: &'static str,
    changes: &'static str,
) -> Edit {
    Edit { keys, place, before, after, is_behind: false, changes }
}

impl Edit {
    fn texts(&self) -> [String; 2] {
        assert_eq!(BASE.matches(self.place).count(), 1, "`{}` is there once", self.place);
        [self.before, self.after].map(|text| match self.is_behind {
            true => BASE.replace(self.place, &format!("{}\n{text}", self.place)),
            false => BASE.replace(self.place, text),
        })
    }
}

const STREAM: &str = "stream = \"EVENTS\"";
const BEGIN: &str = "workers = 1\n\n[sources.events]\n";
const IDLE_1M: &str = "checkpoint.path = \"state\"\n\n[sources.events]\nidle_after = \"1m\"\n";
const IDLE_2M: &str = "checkpoint.path = \"state\"\n\n[sources.events]\nidle_after = \"2m\"\n";
const FILE: &str = "path = \"a.jsonl\"";
const GENERATE: &str = "count = 10";
const ON: &str = "on = \"correlation_id\"";
const WITHIN: &str = "within = \"30s\"";
const FUNNEL: &str = "within = \"1h\"";
const TIMEOUT: &str = "timeout = \"5m\"";
const GAP: &str = "gap = \"30m\"";
const PERIODS: &str = "periods = 12";
const BY: &str = "by = [\"properties.symbol\"]";
const LINEAGE: &str = "type = \"lineage\"";
const KEEP: &str = "keep = \"kind = 'kept'\"";
const FILTER: &str = "where = \"kind = 'FILL'\"";
const PRICE: &str = "columns.price = \"properties.price\"";
const FROM_MARKET: &str = "from = \"market\"\nwindows = [\"1m\"]";
const RAW: &str = "url = \"postgres://h/raw\"";
const WAREHOUSE: &str = "url = \"postgres://h/analytics\"";
const ARCHIVE: &str = "path = \"archive\"";
const SUBJECT: &str = "subject = \"results.{operator}\"";

#[rustfmt::skip]
const EDITS: &[Edit] = &[
    edit("name", "name = \"base\"", "name = \"other\"", NOTHING),
    edit("engine.workers", "workers = 1", "workers = 3", NOTHING),
    added("engine.flush", "workers = 1", "flush = \"1s\"", NOTHING),
    added("engine.report", "workers = 1", "report = { subject = \"ops\", url = \"nats://h\" }", NOTHING),
    added("engine.checkpoint", "workers = 1", "checkpoint = { path = \"state\" }", NOTHING),

    // Where a stream is, how it is reached and how much of it is read.
    added("nats.url", STREAM, "url = \"nats://elsewhere:4222\"", NOTHING),
    added("nats.context", STREAM, "context = \"c\"", NOTHING),
    added("nats.creds", STREAM, "creds = \"file.creds\"", NOTHING),
    added("nats.nkey", STREAM, "nkey = \"file.nk\"", NOTHING),
    added("nats.user nats.password", STREAM, "user = \"u\"\npassword = \"p\"", NOTHING),
    added("nats.token", STREAM, "token = \"t\"", NOTHING),
    added("nats.tls", STREAM, "tls = { required = true }", NOTHING),
    added("nats.insecure", STREAM, "insecure = true", NOTHING),
    added("nats.start", STREAM, "start = \"new\"", NOTHING),
    added("nats.until", STREAM, "until = \"final\"", NOTHING),
    added("nats.max_skew", STREAM, "max_skew = \"1h\"", NOTHING),
    instead("nats.idle_after", BEGIN, IDLE_1M, IDLE_2M, NOTHING),
    // What its events are.
    edit("nats.stream", STREAM, "stream = \"OTHER\"", EVENTS),
    added("nats.subjects", STREAM, "subjects = [\"a.>\"]", EVENTS),
    added("nats.subjects", STREAM, "subjects = [\">\"]", NOTHING),
    behind("nats.subjects", STREAM, "subjects = [\"a.>\", \"b\"]", "subjects = [\"b\", \"a.>\"]", NOTHING),
    behind("nats.subjects", STREAM, "subjects = [\"a\"]", "subjects = \"a\"", NOTHING),
    added("nats.lateness", STREAM, "lateness = \"30s\"", NOTHING),
    added("nats.lateness", STREAM, "lateness = \"30000ms\"", NOTHING),
    added("nats.lateness", STREAM, "lateness = \"31s\"", EVENTS),
    added("nats.max_future", STREAM, "max_future = \"30s\"", NOTHING),
    added("nats.max_future", STREAM, "max_future = \"1m\"", EVENTS),
    added("nats.max_bytes", STREAM, "max_bytes = \"1MiB\"", NOTHING),
    added("nats.max_bytes", STREAM, "max_bytes = 1048576", NOTHING),
    added("nats.max_bytes", STREAM, "max_bytes = 1048577", EVENTS),
    added("nats.format", STREAM, "format = \"json\"", NOTHING),
    added("nats.format", STREAM, "format = \"cloudevents\"", EVENTS),
    // A type changes what names the path, and nothing else.
    added("nats.types", STREAM, "types = {}", NOTHING),
    added("nats.types", STREAM, "types = { \"properties.nobody\" = \"double\" }", NOTHING),
    added("nats.types", STREAM, "types = { \"properties.price\" = \"bigint\" }", VOLUME),
    added("nats.types", STREAM, "types = { \"properties.symbol\" = \"bigint\" }", "hours lake over pairs rates results runs stories volume warehouse"),
    behind("nats.types", STREAM, "types = { \"properties.price\" = \"bigint\" }", "types = { \"properties.price\" = \"double\" }", VOLUME),
    behind("nats.types", STREAM, "types = { \"properties.price\" = \"double\" }", "types.\"payload.properties.price\" = \"double precision\"", NOTHING),
    added("nats.schemas", STREAM, "schemas = {}", NOTHING),
    added("nats.schemas", STREAM, "schemas = { fill = \"tests/findings/schemas/fill.json\" }", EVENTS),
    behind("nats.schemas", STREAM, "schemas = { fill = \"tests/findings/schemas/fill.json\" }", "schemas = { signal = \"tests/findings/schemas/fill.json\" }", EVENTS),
    // The same in another order and with other spaces; another one.
    behind("nats.schemas", STREAM, "schemas = { fill = \"tests/findings/schemas/fill.json\" }", "schemas = { fill = \"tests/findings/schemas/fill_again.json\" }", NOTHING),
    behind("nats.schemas", STREAM, "schemas = { fill = \"tests/findings/schemas/fill.json\" }", "schemas = { fill = \"tests/findings/schemas/signal.json\" }", EVENTS),
    behind("nats.schemas", STREAM, "schemas = { fill = \"tests/findings/schemas/fill.json\", signal = \"tests/findings/schemas/signal.json\" }", "schemas = { signal = \"tests/findings/schemas/signal.json\", fill = \"tests/findings/schemas/fill.json\" }", NOTHING),
    added("nats.event", STREAM, "event.user_id = \"user_id\"", NOTHING),
    added("nats.event", STREAM, "event.user_id = \"payload.user_id\"", NOTHING),
    added("nats.event", STREAM, "event.user_id = \"uid\"", EVENTS),
    // A mapped `id` does not fall back to the header.
    added("nats.event", STREAM, "event.id = \"id\"", EVENTS),
    behind("nats.event", STREAM, "format = \"cloudevents\"", "format = \"cloudevents\"\nevent.event_type = \"attribute:type\"", NOTHING),
    behind("nats.event", STREAM, "format = \"cloudevents\"", "format = \"cloudevents\"\nevent.event_type = \"attribute:subject\"", EVENTS),
    // What is mapped does not fall back to the data.
    behind("nats.event", STREAM, "format = \"cloudevents\"", "format = \"cloudevents\"\nevent.user_id = \"attribute:userid\"", EVENTS),
    behind("nats.event", STREAM, "format = \"cloudevents\"\nevent.user_id = \"uid\"", "format = \"cloudevents\"\nevent.user_id = \"data.uid\"", NOTHING),
    behind("nats.event", STREAM, "event.id = \"header:Ce-Id\"", "event.id = \"header:ce-id\"", NOTHING),

    edit("file.path", FILE, "path = \"b/*.jsonl\"", NOTHING),
    added("file.until", FILE, "until = \"end\"", NOTHING),
    added("file.lateness", FILE, "lateness = \"30s\"", NOTHING),
    added("file.lateness", FILE, "lateness = \"1m\"", HISTORY),
    // Lines of a file have no broker's time.
    added("file.max_future", FILE, "max_future = \"1m\"", NOTHING),
    added("file.max_skew", FILE, "max_skew = \"1h\"", NOTHING),
    added("file.max_bytes", FILE, "max_bytes = \"1MiB\"", NOTHING),
    added("file.max_bytes", FILE, "max_bytes = \"1KiB\"", HISTORY),
    added("file.format", FILE, "format = \"json\"", NOTHING),
    added("file.format", FILE, "format = \"cloudevents\"", HISTORY),
    added("file.types", FILE, "types = { \"properties.nobody\" = \"double\" }", NOTHING),
    added("file.schemas", FILE, "schemas = { fill = \"tests/findings/schemas/fill.json\" }", HISTORY),
    added("file.event", FILE, "event.timestamp = \"ts\"", HISTORY),
    edit("file.type", "type = \"file\"\npath = \"a.jsonl\"", "type = \"generate\"", HISTORY),

    edit("generate.count", GENERATE, "count = 20", NOTHING),
    added("generate.rate", GENERATE, "rate = 5", NOTHING),
    added("generate.max_skew", GENERATE, "max_skew = \"1h\"", NOTHING),
    added("generate.until", GENERATE, "until = \"end\"", NOTHING),
    added("generate.seed", GENERATE, "seed = 1", NOTHING),
    added("generate.seed", GENERATE, "seed = 2", MARKET),
    added("generate.users", GENERATE, "users = 1000", NOTHING),
    added("generate.users", GENERATE, "users = 1001", MARKET),
    added("generate.symbols", GENERATE, "symbols = 20", NOTHING),
    added("generate.symbols", GENERATE, "symbols = 21", MARKET),
    added("generate.interval", GENERATE, "interval = \"10ms\"", NOTHING),
    added("generate.interval", GENERATE, "interval = \"1s\"", MARKET),
    added("generate.start_at", GENERATE, "start_at = \"2026-01-01T00:00:00Z\"", NOTHING),
    added("generate.start_at", GENERATE, "start_at = 2026-01-01T00:00:00Z", NOTHING),
    added("generate.start_at", GENERATE, "start_at = \"2026-01-02T00:00:00Z\"", MARKET),
    added("generate.lateness", GENERATE, "lateness = \"30s\"", NOTHING),
    added("generate.lateness", GENERATE, "lateness = \"0s\"", MARKET),
    added("generate.max_future", GENERATE, "max_future = \"0s\"", NOTHING),
    added("generate.max_bytes", GENERATE, "max_bytes = 64", MARKET),
    added("generate.format", GENERATE, "format = \"json\"", NOTHING),
    added("generate.format", GENERATE, "format = \"cloudevents\"", MARKET),
    added("generate.types", GENERATE, "types = { \"properties.nobody\" = \"double\" }", NOTHING),
    added("generate.schemas", GENERATE, "schemas = { fill = \"tests/findings/schemas/fill.json\" }", MARKET),
    added("generate.event", GENERATE, "event.source = \"'market'\"", MARKET),

    edit("aggregate.from", "from = \"events\"\nwhere", "from = [\"events\"]\nwhere", NOTHING),
    edit("aggregate.from", "from = \"events\"\nwhere", "from = \"history\"\nwhere", VOLUME),
    edit("aggregate.from", "[\"events\", \"market\"]", "[\"market\", \"events\"]", NOTHING),
    edit("aggregate.from", "[\"events\", \"market\"]", "[\"market\"]", "both results"),
    edit("aggregate.where", "kind = 'fill'", "kind='fill'", NOTHING),
    edit("aggregate.where", "kind = 'fill'", "kind = 'FILL'", VOLUME),
    added("aggregate.where", FROM_MARKET, "where = \"a = 1\"", MINUTES),
    edit("aggregate.by", BY, "by = \"properties.symbol\"", NOTHING),
    edit("aggregate.by", BY, "by = { symbol = \"properties.symbol\" }", NOTHING),
    edit("aggregate.by", BY, "by = { name = \"properties.symbol\" }", VOLUME),
    edit("aggregate.by", BY, "by = { symbol = \"lower(properties.symbol)\" }", VOLUME),
    edit("aggregate.by", BY, "by = [\"properties.symbol\", \"user_id\"]", VOLUME),
    added("aggregate.by", FROM_MARKET, "by = []", NOTHING),
    edit("aggregate.windows", "windows = [\"1m\", \"1d\"]", "windows = [\"1d\", \"1m\"]", NOTHING),
    edit("aggregate.windows", "windows = [\"1m\", \"1d\"]", "windows = [\"1m\", \"24h\"]", VOLUME),
    // Of one length, but rows say how the window is written.
    edit("aggregate.windows", "windows = [\"1m\", \"1d\"]", "windows = [\"60s\", \"1d\"]", VOLUME),
    instead("aggregate.windows", "windows = [\"1m\", \"1d\"]", "windows = [\"1m\"]", "windows = \"1m\"", NOTHING),
    instead("aggregate.windows", "windows = [\"1m\", \"1d\"]", "windows = [{ size = \"1h\", every = \"5m\" }, \"1m\"]", "windows = [\"1m\", { every = \"5m\", size = \"1h\" }]", NOTHING),
    instead("aggregate.windows", "windows = [\"1m\", \"1d\"]", "windows = [{ size = \"1h\", every = \"5m\" }, \"1m\"]", "windows = [{ size = \"1h\", every = \"6m\" }, \"1m\"]", VOLUME),
    instead("aggregate.expire", "windows = [\"1m\"]\nmeasures.n = \"count(*)\"\n\n[operators.steps]", "expire = \"1h\"\nmeasures.n = \"count(*)\"\n\n[operators.steps]", "expire = \"60m\"\nmeasures.n = \"count(*)\"\n\n[operators.steps]", NOTHING),
    instead("aggregate.expire", "windows = [\"1m\"]\nmeasures.n = \"count(*)\"\n\n[operators.steps]", "expire = \"1h\"\nmeasures.n = \"count(*)\"\n\n[operators.steps]", "expire = \"2h\"\nmeasures.n = \"count(*)\"\n\n[operators.steps]", "lake over"),
    edit("aggregate.compare", "windows = [\"1h\"]\nmeasures.n = \"count(*)\"", "windows = [\"1h\"]\ncompare = \"previous\"\nmeasures.n = \"count(*)\"", "both results"),
    added("aggregate.breakdown", BY, "breakdown = [\"properties.venue\"]", VOLUME),
    behind("aggregate.breakdown", BY, "breakdown = [\"properties.venue\"]", "breakdown = { venue = \"properties.venue\" }", NOTHING),
    behind("aggregate.breakdown", BY, "breakdown = [\"properties.venue\"]", "breakdown = [\"venue\"]", VOLUME),
    edit("aggregate.measures", "sum(properties.price)", "sum( properties.price )", NOTHING),
    edit("aggregate.measures", "sum(properties.price)", "avg(properties.price)", VOLUME),
    edit("aggregate.measures", "sum(properties.price)", "sum(properties.price) filter (where a)", VOLUME),
    edit("aggregate.measures", "measures.total", "measures.sum", VOLUME),
    instead("aggregate.measures", "measures.total = \"sum(properties.price)\"", "", "measures.m = \"min(a)\"", VOLUME),
    added("aggregate.timezone", BY, "timezone = \"UTC\"", NOTHING),
    added("aggregate.timezone", BY, "timezone = \"Europe/Berlin\"", VOLUME),
    // Nothing there goes by it.
    added("aggregate.timezone", FROM_MARKET, "timezone = \"Europe/Berlin\"", NOTHING),
    behind("aggregate.timezone", FROM_MARKET, "where = \"extract(hour from timestamp) > 8\"", "where = \"extract(hour from timestamp) > 8\"\ntimezone = \"Europe/Berlin\"", MINUTES),
    added("aggregate.time", BY, "time = \"timestamp\"", NOTHING),
    added("aggregate.time", "from = \"pairs\"", "time = \"timestamp\"", NOTHING),
    edit("aggregate.time", "from = \"volume\"\ntime = \"window_start\"", "from = \"volume\"\ntime = \"window_end\"", "hours lake"),

    edit("join.left", "kind = 'placed'", "kind='placed'", NOTHING),
    edit("join.left", "kind = 'placed'", "kind = 'x'", PAIRS),
    instead("join.left join.right", "left = { from = \"events\", where = \"kind = 'placed'\" }\nright = { from = \"history\", where = \"kind = 'filled'\" }", "left = { from = \"events\" }\nright = { from = \"history\" }", "left = { from = \"history\" }\nright = { from = \"events\" }", PAIRS),
    edit("join.right", "from = \"history\", where = \"kind = 'filled'\"", "from = \"history\"", PAIRS),
    instead("join.right", "from = \"history\", where = \"kind = 'filled'\"", "from = \"history\"", "from = \"market\"", PAIRS),
    edit("join.on", ON, "on = { left = \"correlation_id\", right = \"correlation_id\" }", NOTHING),
    edit("join.on", ON, "on = { left = \"correlation_id\", right = \"causation_id\" }", PAIRS),
    edit("join.on", ON, "on = \"user_id\"", PAIRS),
    edit("join.within", WITHIN, "within = { after = \"30s\" }", NOTHING),
    edit("join.within", WITHIN, "within = { before = \"0s\", after = \"30000ms\" }", NOTHING),
    edit("join.within", WITHIN, "within = \"31s\"", PAIRS),
    edit("join.within", WITHIN, "within = { before = \"1s\", after = \"30s\" }", PAIRS),
    edit("join.select", "left.properties.symbol", "right.properties.symbol", PAIRS),
    added("join.select", WITHIN, "select.id = \"left.id\"", PAIRS),
    added("join.unmatched", WITHIN, "unmatched = \"none\"", NOTHING),
    added("join.unmatched", WITHIN, "unmatched = \"left\"", PAIRS),

    edit("funnel.from", "from = \"events\"\nsteps", "from = [\"events\"]\nsteps", NOTHING),
    edit("funnel.from", "from = \"events\"\nsteps", "from = \"history\"\nsteps", STEPS),
    instead("funnel.from", "from = \"events\"\nsteps", "from = [\"events\", \"market\"]\nsteps", "from = [\"market\", \"events\"]\nsteps", NOTHING),
    // Of rows at one time those of the first input come first.
    edit("funnel.from", "type = \"funnel\"\nfrom = [\"volume\", \"minutes\"]", "type = \"funnel\"\nfrom = [\"minutes\", \"volume\"]", "rates results"),
    added("funnel.where", FUNNEL, "where = \"a = 1\"", STEPS),
    added("funnel.by", FUNNEL, "by = \"user_id\"", NOTHING),
    added("funnel.by", FUNNEL, "by = \"session_id\"", STEPS),
    edit("funnel.steps", "{ name = \"a\", where = \"kind = 'a'\" }", "{ where = \"kind='a'\", name = \"a\" }", NOTHING),
    edit("funnel.steps", "name = \"a\"", "name = \"A\"", STEPS),
    edit("funnel.steps", "kind = 'a'", "kind = 'c'", STEPS),
    edit("funnel.steps", "kind = 'b'\" }]", "kind = 'b'\" }, { name = \"c\", where = \"true\" }]", STEPS),
    edit("funnel.within", FUNNEL, "within = \"60m\"", NOTHING),
    edit("funnel.within", FUNNEL, "within = \"61m\"", STEPS),
    added("funnel.order", FUNNEL, "order = \"ordered\"", NOTHING),
    added("funnel.order", FUNNEL, "order = \"strict\"", STEPS),
    added("funnel.breakdown", FUNNEL, "breakdown = \"properties.venue\"", STEPS),
    edit("funnel.window", "within = \"1h\"\nwindow = \"1d\"", "within = \"1h\"\nwindow = \"1w\"", STEPS),
    added("funnel.timezone", FUNNEL, "timezone = \"UTC\"", NOTHING),
    added("funnel.timezone", FUNNEL, "timezone = \"Asia/Tokyo\"", STEPS),
    instead("funnel.timezone", "within = \"1h\"\nwindow = \"1d\"", "within = \"1h\"\nwindow = \"1h\"", "within = \"1h\"\nwindow = \"1h\"\ntimezone = \"Asia/Tokyo\"", NOTHING),
    added("funnel.time", FUNNEL, "time = \"timestamp\"", NOTHING),

    instead("lineage.from", "type = \"lineage\"\nfrom = \"events\"", "type = \"lineage\"\nfrom = [\"events\", \"market\"]", "type = \"lineage\"\nfrom = [\"market\", \"events\"]", NOTHING),
    edit("lineage.from", "type = \"lineage\"\nfrom = \"events\"", "type = \"lineage\"\nfrom = \"history\"", ORIGINS),
    added("lineage.where", LINEAGE, "where = \"a = 1\"", ORIGINS),
    added("lineage.within", LINEAGE, "within = \"60m\"", NOTHING),
    added("lineage.within", LINEAGE, "within = \"61m\"", ORIGINS),
    added("lineage.time", LINEAGE, "time = \"timestamp\"", NOTHING),
    added("lineage.timezone", LINEAGE, "timezone = \"Asia/Tokyo\"", NOTHING),
    behind("lineage.timezone", LINEAGE, "where = \"extract(hour from timestamp) > 8\"", "where = \"extract(hour from timestamp) > 8\"\ntimezone = \"Asia/Tokyo\"", ORIGINS),

    edit("sample.from", "from = \"market\"\nkeep", "from = [\"market\"]\nkeep", NOTHING),
    edit("sample.from", "from = \"market\"\nkeep", "from = \"events\"\nkeep", THIN),
    edit("sample.keep", KEEP, "keep = \"kind='kept'\"", NOTHING),
    edit("sample.keep", KEEP, "keep = \"kind = 'x'\"", THIN),
    instead("sample.keep", KEEP, "", "keep = \"kind = 'x'\"", THIN),
    // What passes is kept for another reason.
    instead("sample.keep sample.where", KEEP, "keep = \"a = 1\"", "where = \"a = 1\"", THIN),
    added("sample.where", KEEP, "where = \"a = 1\"", THIN),
    added("sample.by", KEEP, "by = \"user_id\"", THIN),
    added("sample.by", KEEP, "by = []", NOTHING),
    behind("sample.by", KEEP, "by = \"user_id\"", "by = [\"user_id\"]", NOTHING),
    behind("sample.by", KEEP, "by = \"user_id\"", "by = [\"user_id\", \"session_id\"]", THIN),
    added("sample.context", KEEP, "context = 5", NOTHING),
    added("sample.context", KEEP, "context = 4", THIN),
    added("sample.context_within", KEEP, "context_within = \"60s\"", NOTHING),
    added("sample.context_within", KEEP, "context_within = \"61s\"", THIN),
    added("sample.rate", KEEP, "rate = 0.1", NOTHING),
    added("sample.rate", KEEP, "rate = 0.2", THIN),
    behind("sample.rate", KEEP, "rate = 1", "rate = 1.0", NOTHING),
    added("sample.time", KEEP, "time = \"timestamp\"", NOTHING),
    added("sample.timezone", KEEP, "timezone = \"Asia/Tokyo\"", NOTHING),
    behind("sample.timezone", KEEP, "where = \"extract(hour from timestamp) > 8\"", "where = \"extract(hour from timestamp) > 8\"\ntimezone = \"Asia/Tokyo\"", THIN),

    edit("filter.from", "from = \"history\"\nwhere", "from = [\"history\"]\nwhere", NOTHING),
    edit("filter.from", "from = \"history\"\nwhere", "from = \"market\"\nwhere", FILLS),
    edit("filter.where", FILTER, "where = \"kind='FILL'\"", NOTHING),
    edit("filter.where", FILTER, "where = \"kind = 'X'\"", FILLS),
    added("filter.timezone", FILTER, "timezone = \"Asia/Tokyo\"", NOTHING),

    edit("derive.from", "from = \"fills\"", "from = [\"fills\"]", NOTHING),
    edit("derive.from", "from = \"fills\"", "from = \"history\"", PRICED),
    added("derive.where", PRICE, "where = \"a = 1\"", PRICED),
    edit("derive.columns", PRICE, "columns = { price = \" properties.price \" }", NOTHING),
    edit("derive.columns", PRICE, "columns.price = \"properties.cost\"", PRICED),
    edit("derive.columns", PRICE, "columns.cost = \"properties.price\"", PRICED),
    added("derive.columns", PRICE, "columns.cost = \"properties.cost\"", PRICED),
    added("derive.timezone", PRICE, "timezone = \"Asia/Tokyo\"", NOTHING),
    behind("derive.timezone", PRICE, "columns.hour = \"extract(hour from timestamp)\"", "columns.hour = \"extract(hour from timestamp)\"\ntimezone = \"Asia/Tokyo\"", PRICED),
    edit("flow.from", "from = \"people\"\ndone", "from = [\"people\"]\ndone", NOTHING),
    edit("flow.from", "from = \"people\"\ndone", "from = [\"people\", \"events\"]\ndone", ORDERS),
    edit("flow.done", "kind = 'shipped'", "kind='shipped'", NOTHING),
    edit("flow.done", "kind = 'shipped'", "kind = 'cancelled'", ORDERS),
    edit("flow.timeout", TIMEOUT, "timeout = \"300s\"", NOTHING),
    edit("flow.timeout", TIMEOUT, "timeout = \"6m\"", ORDERS),
    added("flow.by", TIMEOUT, "by = \"correlation_id\"", NOTHING),
    added("flow.by", TIMEOUT, "by = [\"payload.correlation_id\"]", ORDERS),
    added("flow.by", TIMEOUT, "by = { order = \"correlation_id\" }", ORDERS),
    added("flow.where", TIMEOUT, "where = \"a = 1\"", ORDERS),
    added("flow.timezone", TIMEOUT, "timezone = \"Asia/Tokyo\"", NOTHING),
    behind("flow.timezone", TIMEOUT, "where = \"extract(hour from timestamp) > 8\"", "where = \"extract(hour from timestamp) > 8\"\ntimezone = \"Asia/Tokyo\"", ORDERS),
    added("flow.time", TIMEOUT, "time = \"timestamp\"", NOTHING),

    edit("sessions.from", "from = [\"people\"]\ngap", "from = \"people\"\ngap", NOTHING),
    instead("sessions.from", "from = [\"people\"]\ngap", "from = [\"people\", \"market\"]\ngap", "from = [\"market\", \"people\"]\ngap", NOTHING),
    // Of rows at one time those of the first input come first.
    edit("sessions.from", "from = [\"volume\", \"minutes\"]\nby = \"granularity\"\ntime = \"window_end\"", "from = [\"minutes\", \"volume\"]\nby = \"granularity\"\ntime = \"window_end\"", "runs stories"),
    edit("sessions.time", "time = \"window_end\"", "time = \"window_start\"", "runs stories"),
    added("sessions.time", GAP, "time = \"timestamp\"", NOTHING),
    edit("sessions.gap", GAP, "gap = \"1800s\"", NOTHING),
    edit("sessions.gap", GAP, "gap = \"31m\"", VISITS),
    added("sessions.by", GAP, "by = \"user_id\"", NOTHING),
    added("sessions.by", GAP, "by = [\"user_id\", \"session_id\"]", VISITS),
    added("sessions.where", GAP, "where = \"a = 1\"", VISITS),
    added("sessions.timezone", GAP, "timezone = \"Asia/Tokyo\"", NOTHING),
    behind("sessions.timezone", GAP, "where = \"extract(hour from timestamp) > 8\"", "where = \"extract(hour from timestamp) > 8\"\ntimezone = \"Asia/Tokyo\"", VISITS),

    edit("retention.from", "from = \"people\"\nstart", "from = [\"people\"]\nstart", NOTHING),
    edit("retention.from", "from = \"people\"\nstart", "from = \"history\"\nstart", COHORTS),
    edit("retention.start", "kind = 'signup'", "kind='signup'", NOTHING),
    edit("retention.start", "kind = 'signup'", "kind = 'x'", COHORTS),
    edit("retention.return", "kind = 'login'", "kind = 'x'", COHORTS),
    edit("retention.start retention.return", "start = \"kind = 'signup'\"\nreturn = \"kind = 'login'\"", "return = \"kind = 'signup'\"\nstart = \"kind = 'login'\"", COHORTS),
    edit("retention.period", "period = \"1d\"\n", "period = \"1w\"\n", COHORTS),
    edit("retention.periods", PERIODS, "periods = 13", COHORTS),
    added("retention.by", PERIODS, "by = \"user_id\"", NOTHING),
    added("retention.by", PERIODS, "by = \"session_id\"", COHORTS),
    added("retention.where", PERIODS, "where = \"a = 1\"", COHORTS),
    added("retention.timezone", PERIODS, "timezone = \"UTC\"", NOTHING),
    added("retention.timezone", PERIODS, "timezone = \"Asia/Tokyo\"", COHORTS),
    added("retention.time", PERIODS, "time = \"timestamp\"", NOTHING),

    edit("postgres.url", RAW, "url = \"postgres://u:p@elsewhere/raw\"", NOTHING),
    added("postgres.tls_ca", RAW, "tls_ca = \"ca.pem\"", NOTHING),
    added("postgres.insecure", RAW, "insecure = true", NOTHING),
    edit("postgres.from", "[\"volume\", \"events\", \"pairs\"]", "[\"pairs\", \"volume\", \"events\"]", NOTHING),
    edit("postgres.from", "[\"volume\", \"events\", \"pairs\"]", "[\"volume\", \"events\"]", "warehouse"),
    added("postgres.begin", WAREHOUSE, "begin = \"now\"", NOTHING),
    added("postgres.emit", WAREHOUSE, "emit = \"changes\"", NOTHING),
    added("postgres.emit", WAREHOUSE, "emit = \"final\"", "warehouse"),
    // Raw events are final at once.
    added("postgres.emit", RAW, "emit = \"final\"", NOTHING),
    added("postgres.table", WAREHOUSE, "table.volume = \"public.volume\"", NOTHING),
    added("postgres.table", WAREHOUSE, "table.volume = \"live.volume\"", "warehouse"),
    added("postgres.indexes", RAW, "indexes = true", NOTHING),
    // An indexed column cannot hold long texts.
    added("postgres.indexes", RAW, "indexes = false", "raw"),

    // What is removed as too old is not missed by anybody who writes.
    added("postgres.retain", RAW, "retain = \"90d\"", NOTHING),
    added("postgres.retain", WAREHOUSE, "retain = { \"1m\" = \"90d\" }", NOTHING),
    added("parquet.retain", ARCHIVE, "retain = \"90d\"", NOTHING),

    // `insecure` is about servers alone, and there are none yet.
    edit("parquet.path parquet.insecure", ARCHIVE, "path = \"elsewhere\"", NOTHING),
    edit("parquet.from", "[\"history\", \"dead_letter\"]", "[\"dead_letter\", \"history\"]", NOTHING),
    edit("parquet.from", "[\"history\", \"dead_letter\"]", "[\"history\"]", "archive"),
    added("parquet.partition", ARCHIVE, "partition = []", NOTHING),
    added("parquet.roll", ARCHIVE, "roll = { rows = 10, every = \"1s\" }", NOTHING),
    added("parquet.begin", ARCHIVE, "begin = \"now\"", NOTHING),
    added("parquet.emit", ARCHIVE, "emit = \"final\"", NOTHING),
    // Changes carry columns of their own.
    added("parquet.emit", ARCHIVE, "emit = \"changes\"", "archive"),
    added("parquet.emit", "path = \"lake\"", "emit = \"changes\"", "lake"),

    edit("results.subject", SUBJECT, "subject = \"live.{operator}\"", "results"),
    edit("results.kv", SUBJECT, "kv = \"results\"", "results"),
    added("results.url", SUBJECT, "url = \"nats://elsewhere:4222\"", NOTHING),
    added("results.context", SUBJECT, "context = \"c\"", NOTHING),
    added("results.creds", SUBJECT, "creds = \"file.creds\"", NOTHING),
    added("results.nkey", SUBJECT, "nkey = \"file.nk\"", NOTHING),
    added("results.user results.password", SUBJECT, "user = \"u\"\npassword = \"p\"", NOTHING),
    added("results.token", SUBJECT, "token = \"t\"", NOTHING),
    added("results.tls", SUBJECT, "tls = { required = true }", NOTHING),
    added("results.insecure", SUBJECT, "insecure = true", NOTHING),
    edit("results.from", "[\"steps\", \"both\", \"rates\"]", "[\"both\", \"rates\"]", "results"),
    added("results.begin", SUBJECT, "begin = \"now\"", NOTHING),
    added("results.emit", SUBJECT, "emit = \"changes\"", NOTHING),
    added("results.emit", SUBJECT, "emit = \"final\"", "results"),

    // Another order of the tables.
    edit("order", "[sources.events]\ntype = \"nats\"\nstream = \"EVENTS\"\n", "[operators.more]\ntype = \"aggregate\"\nfrom = \"events\"\nwindows = [\"1s\"]\nmeasures.n = \"count(*)\"\n\n[sources.events]\ntype = \"nats\"\nstream = \"EVENTS\"\n", NOTHING),
];

/// Where a key can be put into the base to be told which keys there are, and the kind of the table.
const TABLES: [(&str, &str); 17] = [
    ("engine", "workers = 1"),
    ("nats", STREAM),
    ("file", FILE),
    ("generate", GENERATE),
    ("aggregate", BY),
    ("join", WITHIN),
    ("funnel", FUNNEL),
    ("lineage", LINEAGE),
    ("sample", KEEP),
    ("filter", FILTER),
    ("derive", PRICE),
    ("flow", TIMEOUT),
    ("sessions", GAP),
    ("retention", PERIODS),
    ("postgres", RAW),
    ("parquet", ARCHIVE),
    ("results", SUBJECT),
];

#[test]
fn every_edit_changes_the_fingerprints_that_it_must_and_no_other() {
    let mut wrong = Vec::new();
    for edit in EDITS {
        let [before, after] = edit.texts();
        let expected: BTreeSet<String> =
            edit.changes.split_whitespace().map(str::to_owned).collect();
        let found = changed(&planned(&before), &planned(&after));
        if found != expected {
            let Edit { keys, before, after, .. } = edit;
            wrong.push(format!(
                "{keys}: {before} -> {after}\n  expected {expected:?}\n  found    {found:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {} edits:\n{}", wrong.len(), EDITS.len(), wrong.join("\n"));
    println!("{} edits", EDITS.len());
}

/// A setting that is added must find its way into the table.
#[test]
fn every_setting_is_in_the_table() {
    let covered: BTreeSet<&str> =
        EDITS.iter().flat_map(|edit| edit.keys.split_whitespace()).collect();
    let mut missing = Vec::new();
    for (kind, place) in TABLES {
        // With another type it is another thing, and of a source that is in the table.
        for key in keys(place).into_iter().filter(|key| key != "type") {
            let name = format!("{kind}.{key}");
            if !covered.contains(name.as_str()) {
                missing.push(name);
            }
        }
    }
    assert!(missing.is_empty(), "no edit of {}", missing.join(", "));
}

/// The keys of the table that holds a text, as `check` tells them.
fn keys(place: &str) -> Vec<String> {
    let text = BASE.replace(place, &format!("{place}\nqqqqqqqqqqqqqqqq = 1"));
    let document = Document::parse("base.toml", &text, Box::new(|_| None));
    assert!(plan(&document, &CATALOG).is_none());
    let findings = document.render_findings(false);
    let told = findings.split("its keys are: ").nth(1).unwrap_or_else(|| panic!("{findings}"));
    let told: Vec<String> =
        told.lines().next().unwrap().split(", ").map(|key| key.trim().to_owned()).collect();
    assert!(told.len() >= 3, "{findings}");
    told
}

fn planned(text: &str) -> Deployment {
    let document = Document::parse("base.toml", text, Box::new(|_| None));
    let deployment = plan(&document, &CATALOG);
    deployment.unwrap_or_else(|| panic!("{}\n{text}", document.render_findings(false)))
}

/// The operators, and the sinks that keep rows, that both have and that mean something else.
fn changed(before: &Deployment, after: &Deployment) -> BTreeSet<String> {
    let operators = before.operators.iter().filter_map(|node| {
        let other = after.operators.iter().find(|other| other.name == node.name)?;
        (other.fingerprint != node.fingerprint).then(|| node.name.clone())
    });
    let sinks = before.sinks.iter().filter(|node| node.kind != "print").filter_map(|node| {
        let other = after.sinks.iter().find(|other| other.name == node.name)?;
        (!other.means(&node.fingerprint)).then(|| node.name.clone())
    });
    operators.chain(sinks).collect()
}
