//! What the programs that measure waterwheel share.

pub mod observe;
pub mod options;
pub mod processor;
pub mod publisher;
pub mod spread;
