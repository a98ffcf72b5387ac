//! Tests of the simulator itself.

use super::{SimConfig, run};

#[test]
fn a_seed_is_one_run_bit_for_bit() {
    for seed in 0..5 {
        assert_eq!(run(SimConfig::new(seed)), run(SimConfig::new(seed)));
    }
}
