//! The reply subject of a delivered message, in which the server says what it delivered.

/// What the server says of a message that a consumer delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Delivery {
    /// The message's sequence in the stream.
    pub(super) stream_sequence: u64,
    /// Counts the deliveries of the consumer from one; a hole means that a message was lost on the
    /// way.
    pub(super) consumer_sequence: u64,
    /// When the server took the message, in nanoseconds since the Unix epoch.
    pub(super) time_ns: i64,
    /// How many messages of the filter wait behind it.
    pub(super) pending: u64,
}

impl Delivery {
    /// Reads `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>`,
    /// or the newer form, which has `<domain>.<account>` in front of the stream and may have more
    /// tokens at the end. `None` for any other subject.
    pub(super) fn parse(reply: &str) -> Option<Self> {
        let rest = reply.strip_prefix("$JS.ACK.")?;
        let dots = rest.bytes().filter(|&byte| byte == b'.').count();
        let skipped = match dots {
            6 => 3,
            8.. => 5,
            _ => return None,
        };
        let mut tokens = rest.split('.').skip(skipped);
        Some(Self {
            stream_sequence: number(tokens.next()?)?,
            consumer_sequence: number(tokens.next()?)?,
            time_ns: i64::try_from(number(tokens.next()?)?).ok()?,
            pending: number(tokens.next()?)?,
        })
    }
}

fn number(token: &str) -> Option<u64> {
    if token.is_empty() {
        return None;
    }
    token.bytes().try_fold(0_u64, |value, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let delivery = Delivery {
            stream_sequence: 1_000_000,
            consumer_sequence: 42,
            time_ns: 1_700_000_000_123_456_789,
            pending: 7,
        };
        for reply in [
            "$JS.ACK.EVENTS.c1.1.1000000.42.1700000000123456789.7",
            "$JS.ACK._.hash.EVENTS.c1.1.1000000.42.1700000000123456789.7",
            "$JS.ACK.hub.hash.EVENTS.c1.1.1000000.42.1700000000123456789.7.random.more",
        ] {
            assert_eq!(Delivery::parse(reply), Some(delivery), "{reply}");
        }
    }

    #[test]
    fn anything_else_is_none() {
        for reply in [
            "",
            "$JS.ACK.",
            "$JS.FC.EVENTS.c1.x",
            "$JS.ACK.EVENTS.c1.1.x.42.1700000000123456789.7",
            "$JS.ACK.EVENTS.c1.1.1.42.1700000000123456789",
            "$JS.ACK.EVENTS.c1.1.99999999999999999999.42.1700000000123456789.7",
        ] {
            assert_eq!(Delivery::parse(reply), None, "{reply}");
        }
    }
}
