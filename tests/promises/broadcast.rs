//! Out of a stream: what is published, when, and how often.

mod acknowledged;
mod added;
mod consumers;
mod fakes;
mod notifier;
mod options;
mod strangers;
mod stream_begins;
mod streams;
mod unread_loss;
