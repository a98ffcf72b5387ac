//! The store against a naive model that shares no code with it but the types of operations and queries.

mod cases;
mod model;
mod queries;
mod random;
mod trails;
