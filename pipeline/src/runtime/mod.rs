//! How a pipeline stays alive.
