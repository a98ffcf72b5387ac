//! Atlas: Byzantine-fault-tolerant state of digital twins. This crate is the product; the replica's inside is in
//! `atlas_dataplane`.

pub mod audit;
pub mod backup;
pub mod bench;
pub mod cli;
pub mod client;
pub mod demo;
pub mod host;
pub mod local;
pub mod plot;
pub mod replica;
mod svg;
pub mod top;
pub mod trail;
pub mod twin;

pub use client::{Client, ClientConfig};
