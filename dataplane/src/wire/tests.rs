//! Tests of the wire formats. What FORMATS.md says is derived again here by hand, so that a mistake in the code shows.

mod bundle;
mod frame;
mod message;
mod statement;
