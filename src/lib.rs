//! Atlas: Byzantine-fault-tolerant state of digital twins. This crate is the product; the replica's inside is in
//! `atlas_dataplane`.

pub mod client;

pub use client::Client;
