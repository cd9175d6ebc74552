//! What an event costs, whatever its user did before: the same with 10, 1,000 and 100,000 events of
//! each user, a tenth of them out of order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use waterwheel_config::calendar::Period;
use waterwheel_config::value::Value;
use waterwheel_pipeline::contract::clock::{Clock, StateGauge, Watermark};
use waterwheel_pipeline::contract::epoch::Epoch;
use waterwheel_pipeline::contract::fold::Fold;
use waterwheel_pipeline::contract::operator::RenderContext;
use waterwheel_pipeline::contract::state::Keeper;

use super::super::steps::{StepEvent, UserEvent};
use super::super::users::UserChains;
use super::super::{Order, Plan, Rules};
use crate::testing::Random;

const EVENTS: usize = 100_000;
/// At most.
const ROUNDS: usize = 6;
const EPOCH_EVENTS: usize = 1_000;
const STEP_US: i64 = 1_000;
const LATENESS_US: i64 = 20_000_000;

fn plan(order: Order) -> Arc<Plan> {
    Arc::new(Plan {
        inputs: Vec::new(),
        step_names: vec![Value::Null; 3],
        rules: Rules { order, steps: 3, within_us: 3_600_000_000, has_breakdown: false },
        period: Period::Fixed(86_400_000_000),
    })
}

/// Events of users in turn. Nobody gets to the last step, after which nothing would count any more.
fn events(of_each: usize) -> Vec<UserEvent> {
    let mut random = Random::new(of_each as u64);
    let users = EVENTS / of_each;
    let event = |index: usize| {
        let late_us = if random.once_in(10) { random.below_i64(LATENESS_US) } else { 0 };
        let time_us = (index as i64 * STEP_US - late_us).max(0);
        let user = (index % users + 1) as u128;
        UserEvent {
            // As spread as the identities of users are.
            user: user.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835),
            event: StepEvent::new(time_us, 0, index as u128, random.pick(&[1, 2, 1, 2, 3])),
        }
    };
    (0..EVENTS).map(event).collect()
}

fn run(order: Order, events: &[UserEvent]) -> Duration {
    let context = RenderContext {
        clock: Clock::default(),
        watermark: Watermark::source(0),
        state: StateGauge::default(),
        name: "steps".to_owned(),
        fingerprint: 0,
        keeper: Keeper::default(),
        decoders: Vec::new().into(),
        only_final: false,
    };
    let mut users = UserChains::new(plan(order), &context);
    let epochs: Vec<Vec<(UserEvent, isize)>> = events
        .chunks(EPOCH_EVENTS)
        .map(|events| events.iter().map(|event| (event.clone(), 1)).collect())
        .collect();
    let (mut output, began) = (Vec::new(), Instant::now());
    for (epoch, events) in epochs.into_iter().enumerate() {
        let largest_us = ((epoch + 1) * EPOCH_EVENTS) as i64 * STEP_US;
        context.clock.set(epoch as Epoch, [largest_us - LATENESS_US].into());
        users.epoch(epoch as Epoch, events, &mut output);
        output.clear();
    }
    began.elapsed()
}

#[test]
fn an_event_costs_the_same_whatever_its_user_did_before() {
    const HISTORIES: [usize; 3] = [10, 1_000, 100_000];
    let logs = HISTORIES.map(events);
    for order in [Order::Ordered, Order::Strict, Order::Any] {
        let mut best = [Duration::MAX; 3];
        let ratio = |best: &[Duration; 3]| {
            let (least, most) = (best.iter().min(), best.iter().max());
            most.expect("a run").as_secs_f64() / least.expect("a run").as_secs_f64()
        };
        // The best of several rounds: this measures the funnel, not what else the machine does.
        for _ in 0..ROUNDS {
            for (best, events) in best.iter_mut().zip(&logs) {
                *best = run(order, events).min(*best);
            }
            if ratio(&best) < 4.0 {
                break;
            }
        }
        for (of_each, took) in HISTORIES.into_iter().zip(best) {
            let per_event = took.as_nanos() / EVENTS as u128;
            println!("funnel: {per_event} ns/event, {order:?}, {of_each} events per user");
        }
        assert!(ratio(&best) < 4.0, "{order:?}: {best:?} for {EVENTS} events");
    }
}
