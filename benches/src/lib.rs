//! What the programs that measure waterwheel share.

pub mod options;
pub mod processor;
