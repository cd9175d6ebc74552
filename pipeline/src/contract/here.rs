//! Which servers are on this machine: what goes to another one takes TLS.

use std::net::IpAddr;

/// What a deployment says where everybody on the way may read and change what passes.
pub const INSECURE: &str = "insecure";

/// True for a name or an address that leads nowhere else, `[::1]` included.
///
/// ```
/// use waterwheel_pipeline::contract::here::is_here;
/// assert!(is_here("localhost") && is_here("127.0.0.1") && is_here("[::1]"));
/// assert!(!is_here("nats.internal") && !is_here("10.0.0.1"));
/// ```
pub fn is_here(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let address = bare.parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}
