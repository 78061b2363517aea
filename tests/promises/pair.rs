//! Several instances of one configuration, or of two that follow one another.

mod broadcast;
mod rollout;
mod takeover;
mod two_way;

/// One route; with another `further` channel messages are numbered otherwise.
pub(crate) fn routes(mode: &str, further: &str) -> String {
    format!(
        r#"
        [capture.orders]
        source = "shop"
        channels = ["orders", "{further}"]
        mode = "{mode}"
        destination = "events"
        stream = "orders"
        keep = "forever"
        include = ["id"]
        "#
    )
}
