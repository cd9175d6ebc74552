//! The graph that a deployment file describes.
