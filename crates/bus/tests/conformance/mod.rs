//! The conformance suite: what every [`Bus`] must do, whatever is between its clients.
//!
//! A test file implements [`Scene`] for one kind of bus and calls [`conformance!`], which expands to one
//! test for each check.

mod failures;
mod messages;
mod overflow;
mod requests;

use std::future::Future;

use tieline_bus::{
    Bus, Delivery, Event, Message, Pattern, Subject, SubscribeOptions, Subscription,
};
use tieline_testkit::wait::within;

pub(crate) use failures::*;
pub(crate) use messages::*;
pub(crate) use overflow::*;
pub(crate) use requests::*;

/// A bus under test.
pub(crate) trait Scene: Sized + Send + Sync + 'static {
    type Client: Bus;

    /// Starts the bus.
    fn start() -> impl Future<Output = Self> + Send;

    /// Connects a client that may use all subjects except those of tieline.
    fn client(&self) -> impl Future<Output = Self::Client> + Send;

    /// The maximum number of subscriptions of a client, and the size of the largest message.
    const MAX_SUBSCRIPTIONS: usize;
    const MAX_MESSAGE: usize;
}

macro_rules! conformance {
    ($scene:ty, $($check:ident),* $(,)?) => {
        $(
            #[test]
            fn $check() {
                tieline_testkit::wait::block_on(async {
                    conformance::$check(<$scene as conformance::Scene>::start().await).await;
                });
            }
        )*
    };
    ($scene:ty) => {
        conformance!(
            $scene,
            messages_reach_the_subscriptions_that_match,
            messages_of_a_publisher_arrive_in_order,
            payloads_and_headers_arrive_unchanged,
            dropped_wait_loses_nothing,
            dropped_subscription_receives_nothing,
            each_message_goes_to_one_member_of_a_group,
            requests_get_their_own_answers,
            member_that_hangs_gets_no_further_requests,
            request_without_responders_fails_at_once,
            timed_out_request_is_cancelled_at_the_responder,
            dropped_request_is_cancelled_at_the_responder,
            cancelled_request_fails_and_is_cancelled_at_the_responder,
            late_answers_are_not_delivered,
            only_the_responder_can_answer,
            request_fails_when_its_responder_ends,
            losses_are_reported_where_they_happened,
            blocking_subscription_loses_nothing,
            slow_subscription_can_be_ended,
            request_waits_for_room_until_its_deadline,
            stopped_subscription_does_not_disturb_others,
            reserved_subjects_are_refused,
            oversize_messages_are_refused,
            too_many_subscriptions_are_refused,
            invalid_groups_and_queues_are_refused,
        );
    };
}
pub(crate) use conformance;

pub(crate) fn subject(text: &str) -> Subject {
    text.parse().unwrap()
}

pub(crate) fn pattern(text: &str) -> Pattern {
    text.parse().unwrap()
}

pub(crate) async fn subscribe(bus: &impl Bus, to: &str) -> Subscription {
    bus.subscribe(&pattern(to), SubscribeOptions::default()).await.unwrap()
}

pub(crate) async fn publish(bus: &impl Bus, to: &str, payload: impl ToString) {
    bus.publish(&subject(to), Message::new(payload.to_string())).await.unwrap();
}

/// Receives a message. Anything else is a failure.
pub(crate) async fn message(subscription: &mut Subscription) -> Delivery {
    match within("a message", subscription.next()).await {
        Event::Message(delivery) => delivery,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn text(subscription: &mut Subscription) -> String {
    String::from_utf8(message(subscription).await.payload().to_vec()).unwrap()
}

/// Answers a request with this text.
pub(crate) async fn answer(bus: &impl Bus, request: &Delivery, text: &str) -> Option<usize> {
    let reply = request.reply().unwrap();
    bus.publish(reply, Message::new(text.to_owned())).await.unwrap().matched
}
