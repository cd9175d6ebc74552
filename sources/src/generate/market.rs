//! An imagined trading venue: every event is a function of the seed and the event's ordinal.
//!
//! Events lie in blocks of eight rows. A row has one place for each *lane*; a lane is the visit of
//! one user, which takes one step in each row of the block. The order of the lanes differs from row
//! to row, so that the time between two steps of a visit does, too. What a step does, and what
//! caused it, says the visit's [`script`](super::script). So the cause of an event is found by
//! arithmetic, nothing is remembered, and reading can begin anywhere.

use waterwheel_config::timestamp::{EARLIEST_US, LATEST_US};

use super::line::Line;
use super::script::{Kind, STEPS, Script, Step, scripts};

/// No timestamp lies further than this behind the largest one before it: with such a lateness no
/// event is late.
pub const DISORDER_US: i64 = 30_000_000;

/// Of 65,536 events this many are told late: 15 %.
const TOLD_LATE: u64 = 9_830;

/// The mean time between two steps of a visit, if the lanes allow it.
const STEP_US: i64 = 4_000_000;

/// Changes with everything that changes the events of a seed.
const VERSION: u64 = 1;

const SYMBOLS: [&str; 50] = [
    "BTC", "ETH", "SOL", "XRP", "ADA", "DOGE", "AVAX", "DOT", "LINK", "LTC", "BCH", "UNI", "ATOM",
    "ETC", "XLM", "FIL", "APT", "ARB", "OP", "NEAR", "ALGO", "VET", "ICP", "QNT", "AAVE", "GRT",
    "EOS", "SAND", "MANA", "AXS", "THETA", "XTZ", "FLOW", "CHZ", "KAVA", "CRV", "SNX", "COMP",
    "MKR", "ZEC", "DASH", "ENJ", "BAT", "LRC", "ZIL", "IOTA", "NEO", "KSM", "WAVES", "YFI",
];
const VENUES: [&str; 8] = ["LON", "LON", "LON", "NYC", "NYC", "TYO", "ZRH", "SYD"];
const PAGES: [&str; 5] = ["home", "markets", "pricing", "learn", "portfolio"];
const COUNTRIES: [&str; 8] = ["US", "GB", "DE", "JP", "FR", "BR", "IN", "CH"];

/// What to imagine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarketSpec {
    /// Another seed is another history.
    pub seed: u64,
    /// How many users there are; a few of them do most.
    pub users: u32,
    /// How many symbols are traded; the first ones most.
    pub symbols: u32,
    /// Event time from one event to the next, in microseconds.
    pub interval_us: i64,
    /// The event time of the first event, in microseconds.
    pub start_us: i64,
}

impl Default for MarketSpec {
    fn default() -> Self {
        Self {
            seed: 1,
            users: 1_000,
            symbols: 20,
            interval_us: 10_000,
            start_us: 1_767_225_600_000_000, // 2026-01-01T00:00:00Z
        }
    }
}

/// What a caller of [`Market::write_event`] may want to know without reading the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventRef {
    /// The event's type.
    pub event_type: &'static str,
    /// The subject to publish it on: `events.` and the type.
    pub subject: &'static str,
    /// Its event time in microseconds.
    pub timestamp_us: i64,
}

/// The source of all events of one [`MarketSpec`].
#[derive(Clone, Debug)]
pub struct Market {
    spec: MarketSpec,
    /// The hash of the seed, which goes into all others.
    key: u64,
    /// Two characters that tell the identifiers of different seeds apart.
    tag: [u8; 2],
    /// The number of lanes is two to this power.
    lane_bits: u32,
    scripts: Vec<Script>,
    symbols: Vec<Symbol>,
    /// For each symbol the probability of it and all before, of 2^32.
    popularity: Vec<u32>,
}

#[derive(Clone, Debug)]
struct Symbol {
    name: String,
    price_cents: i64,
}

/// Where an event lies.
#[derive(Clone, Copy)]
struct Place {
    /// The first ordinal of its block, from zero.
    block: u64,
    row: usize,
    lane: u64,
}

/// What the events of a story share.
struct Story<'m> {
    symbol: &'m Symbol,
    symbol_at: u64,
    venue: &'static str,
    side: &'static str,
    quantity_milli: i64,
    /// How much of it a first part fills.
    part_milli: i64,
}

impl Market {
    /// The market of a specification; numbers that make no sense are taken as the nearest that do.
    pub fn new(spec: MarketSpec) -> Self {
        let (users, symbols) = (spec.users.max(1), spec.symbols.clamp(1, 10_000));
        let interval_us = spec.interval_us.max(1);
        let start_us = spec.start_us.clamp(EARLIEST_US, LATEST_US);
        let spec = MarketSpec { users, symbols, interval_us, start_us, ..spec };
        let lanes = (STEP_US / interval_us).clamp(8, 1 << 16);
        let key = mix(spec.seed);
        Self {
            spec,
            key,
            tag: [b'a' + (key % 26) as u8, b'a' + (key / 26 % 26) as u8],
            lane_bits: lanes.unsigned_abs().next_power_of_two().trailing_zeros(),
            scripts: scripts(),
            symbols: (0..spec.symbols).map(Symbol::new).collect(),
            popularity: popularity(spec.symbols),
        }
    }

    /// A hash of everything that the events depend on.
    pub fn identity(&self) -> u64 {
        let MarketSpec { seed, users, symbols, interval_us, start_us } = self.spec;
        let numbers = [
            seed,
            u64::from(users),
            u64::from(symbols),
            interval_us.cast_unsigned(),
            start_us.cast_unsigned(),
        ];
        numbers.iter().fold(VERSION, |hash, number| mix(hash ^ number))
    }

    /// Appends the event with this ordinal, from one, to `out`: one JSON object, no line end.
    pub fn write_event(&self, ordinal: u64, out: &mut Vec<u8>) -> EventRef {
        let place = self.place(ordinal);
        let visit = self.visit(place);
        let script = self.script(visit);
        let step = script[place.row];
        let timestamp_us = self.timestamp(place, visit);
        let (subject, event_type) = step.kind.names();
        out.reserve(384);
        let mut line = Line(out);
        line.text("{\"id\":\"").id(self.tag, ordinal);
        line.text("\",\"event_type\":\"").text(event_type);
        line.text("\",\"timestamp\":\"").timestamp(timestamp_us);
        line.text("\",\"user_id\":\"u").number(self.user(visit, script));
        if step.kind.source() == "web" {
            let visit_number = place.block / STEPS as u64 + place.lane;
            line.text("\",\"session_id\":\"").id(self.tag, visit_number);
        }
        if !step.alone || step.kind != Kind::View {
            let root = Place { row: usize::from(step.root), ..place };
            line.text("\",\"correlation_id\":\"").id(self.tag, self.ordinal(root));
        }
        if step.back > 0 {
            let cause = self.ordinal(cause_of(place, step));
            line.text("\",\"causation_id\":\"").id(self.tag, cause);
        }
        line.text("\",\"source\":\"").text(step.kind.source()).text("\",\"properties\":{");
        self.write_properties(&mut line, step, visit, timestamp_us);
        line.text("}}");
        EventRef { event_type, subject, timestamp_us }
    }

    fn write_properties(&self, line: &mut Line<'_>, step: Step, visit: u64, timestamp_us: i64) {
        let story = self.story(visit, step.root);
        let chance = mix(visit ^ timestamp_us.cast_unsigned());
        match step.kind {
            Kind::View => {
                let page = pick(&PAGES, chance);
                line.text("\"page\":\"/").text(page);
                if page == "markets" {
                    line.text("/").text(&story.symbol.name);
                }
                let device = if visit & 64 == 0 { "mobile" } else { "desktop" };
                line.text("\",\"device\":\"").text(device);
                line.text("\"");
            }
            Kind::Signup => {
                line.text("\"country\":\"").text(pick(&COUNTRIES, visit / 11));
                line.text("\",\"plan\":\"").text(if chance.is_multiple_of(8) {
                    "pro"
                } else {
                    "free"
                });
                line.text("\"");
            }
            Kind::Deposit => {
                let amount_cents = 1_000 * (1 + (chance >> 40) % 500).cast_signed();
                line.text("\"amount_usd\":").decimal(amount_cents, 2);
                line.text(",\"method\":\"").text(if chance.is_multiple_of(3) {
                    "wire"
                } else {
                    "card"
                });
                line.text("\"");
            }
            Kind::Cancel => {
                self.write_order(line, &story);
                line.text(",\"reason\":\"").text(if chance.is_multiple_of(4) {
                    "user"
                } else {
                    "expired"
                });
                line.text("\"");
            }
            Kind::Signal => {
                self.write_order(line, &story);
                line.text(",\"strength\":").decimal((chance % 1_000).cast_signed(), 3);
            }
            Kind::Order | Kind::Fill | Kind::PartFill | Kind::RestFill | Kind::Close => {
                self.write_trade(line, step, &story, timestamp_us, chance);
            }
        }
    }

    fn write_order(&self, line: &mut Line<'_>, story: &Story<'_>) {
        line.text("\"symbol\":\"").text(&story.symbol.name);
        line.text("\",\"venue\":\"").text(story.venue);
        line.text("\",\"side\":\"").text(story.side).text("\"");
    }

    fn write_trade(
        &self,
        line: &mut Line<'_>,
        step: Step,
        story: &Story<'_>,
        timestamp_us: i64,
        chance: u64,
    ) {
        let price_cents = self.price_cents(story, timestamp_us);
        let quantity_milli = match step.kind {
            Kind::PartFill => story.part_milli,
            Kind::RestFill => story.quantity_milli - story.part_milli,
            _ => story.quantity_milli,
        };
        self.write_order(line, story);
        line.text(",\"price\":").decimal(price_cents, 2);
        line.text(",\"quantity\":").decimal(quantity_milli, 3);
        // Who sells takes a profit or a loss; who closes a position does in any case.
        let realised = story.side == "sell" && step.kind != Kind::Order;
        if realised || step.kind == Kind::Close {
            let basis_points = (chance % 401).cast_signed() - 180;
            let pnl_cents = price_cents * quantity_milli / 1_000 * basis_points / 10_000;
            line.text(",\"pnl_usd\":").decimal(pnl_cents, 2);
        }
    }

    fn place(&self, ordinal: u64) -> Place {
        let at = ordinal.saturating_sub(1);
        let lanes = 1 << self.lane_bits;
        let block = at & !(lanes * STEPS as u64 - 1);
        let row = (at - block) >> self.lane_bits;
        let lane = (at & (lanes - 1)) ^ self.shuffle(block, row);
        Place { block, row: row as usize, lane }
    }

    fn ordinal(&self, place: Place) -> u64 {
        let row = place.row as u64;
        place.block + (row << self.lane_bits) + (place.lane ^ self.shuffle(place.block, row)) + 1
    }

    /// Lanes change places by it from row to row.
    fn shuffle(&self, block: u64, row: u64) -> u64 {
        mix(self.key ^ (block + row) ^ (1 << 62)) & ((1 << self.lane_bits) - 1)
    }

    /// The hash of everything that a visit decides.
    fn visit(&self, place: Place) -> u64 {
        mix(self.key ^ (place.block + place.lane))
    }

    fn script(&self, visit: u64) -> &Script {
        &self.scripts[(visit & 31) as usize]
    }

    /// The timestamp of an event: that of its ordinal, or earlier if it was told late, but after
    /// its cause and not before the first event.
    fn timestamp(&self, place: Place, visit: u64) -> i64 {
        let at = self.ordinal(place).saturating_sub(1);
        let MarketSpec { interval_us, start_us, .. } = self.spec;
        let elapsed_us = i64::try_from(at).unwrap_or(i64::MAX).saturating_mul(interval_us);
        let told_us = start_us.saturating_add(elapsed_us).min(LATEST_US);
        let chance = mix(visit ^ (place.row as u64 + 1));
        if chance & 0xffff >= TOLD_LATE {
            return told_us;
        }
        let step = self.script(visit)[place.row];
        let earliest_us = match step.back {
            0 => start_us,
            _ => self.timestamp(cause_of(place, step), visit) + 1,
        };
        let most_us = (told_us - earliest_us).clamp(0, DISORDER_US);
        let behind_us = (i128::from(most_us) * i128::from(chance >> 32)) >> 32;
        let behind_us = behind_us as i64;
        // Whole milliseconds, where there is one: clocks that late are not that fine.
        told_us - if behind_us < 1_000 { behind_us } else { behind_us - behind_us % 1_000 }
    }

    /// Those who sign up are anybody; of the others a few come again and again.
    fn user(&self, visit: u64, script: &Script) -> u64 {
        let chance = visit >> 32;
        let signs_up = script.iter().any(|step| step.kind == Kind::Signup);
        let weighed = if signs_up { chance } else { (((chance * chance) >> 32) * chance) >> 32 };
        (weighed * u64::from(self.spec.users)) >> 32
    }

    fn story(&self, visit: u64, root: u8) -> Story<'_> {
        let chance = mix(visit ^ ((u64::from(root) + 1) << 40));
        let drawn = chance as u32;
        let at = self.popularity.partition_point(|upto| *upto <= drawn).min(self.symbols.len() - 1);
        let size = ((chance >> 32) & 1_023).cast_signed();
        // Most orders are small, a few a thousand times larger.
        let quantity_milli = 10 + ((size * size * size * 10_000) >> 30);
        Story {
            symbol: &self.symbols[at],
            symbol_at: at as u64,
            venue: pick(&VENUES, chance >> 42),
            side: if chance >> 63 == 0 { "buy" } else { "sell" },
            quantity_milli,
            part_milli: quantity_milli * (25 + ((chance >> 48) & 31).cast_signed()) / 100,
        }
    }

    /// The symbol's price: it wanders over the hours, and a little within the minute.
    fn price_cents(&self, story: &Story<'_>, timestamp_us: i64) -> i64 {
        let seed = mix(self.key ^ story.symbol_at ^ (1 << 61));
        let hours = wave(seed, timestamp_us, 3_600_000_000) * 30;
        let minutes = wave(!seed, timestamp_us, 60_000_000) * 4;
        let base_cents = story.symbol.price_cents;
        (base_cents + base_cents * (hours + minutes) / 1_000_000).max(1)
    }
}

impl Symbol {
    fn new(at: u32) -> Self {
        let name = SYMBOLS.get(at as usize).map_or_else(|| format!("S{at}"), |name| (*name).into());
        // Roughly even over the orders of magnitude from 1 to 50,000 dollars.
        let chance = mix(u64::from(at) ^ (1 << 60));
        let size = 10_i64.pow((chance % 5) as u32 + 2);
        Self { name, price_cents: size + ((chance >> 8) & 1_023).cast_signed() * size / 256 }
    }
}

fn cause_of(place: Place, step: Step) -> Place {
    Place { row: place.row - usize::from(step.back), ..place }
}

/// The running sums of Zipf's law.
fn popularity(symbols: u32) -> Vec<u32> {
    let total: f64 = (1..=symbols).map(|rank| 1.0 / f64::from(rank)).sum();
    let mut sum = 0.0;
    let upto = |rank| {
        sum += 1.0 / f64::from(rank);
        (sum / total * f64::from(u32::MAX)) as u32
    };
    (1..=symbols).map(upto).collect()
}

fn pick(choices: &[&'static str], chance: u64) -> &'static str {
    choices[(chance % choices.len() as u64) as usize]
}

/// From -1000 to 1000: straight lines between random points, one at each multiple of the period.
fn wave(seed: u64, timestamp_us: i64, period_us: i64) -> i64 {
    let (period, within_us) =
        (timestamp_us.div_euclid(period_us), timestamp_us.rem_euclid(period_us));
    let point = |at: i64| (mix(seed ^ at.cast_unsigned()) % 2_001).cast_signed() - 1_000;
    let (from, to) = (point(period), point(period + 1));
    from + (to - from) * within_us / period_us
}

/// The finaliser of SplitMix64, after its increment.
fn mix(number: u64) -> u64 {
    let mut hash = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests;
