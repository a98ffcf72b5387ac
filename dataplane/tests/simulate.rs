//! Seeds through the simulator.

use atlas_dataplane::sim::{self, SimConfig};

#[test]
fn seeds() {
    let range = std::env::var("ATLAS_SIM_SEEDS").unwrap_or("0..40".into());
    let (a, b) = range.split_once("..").unwrap();
    let mut bad = 0;
    for seed in a.parse().unwrap()..b.parse::<u64>().unwrap() {
        let t = std::time::Instant::now();
        match sim::run(SimConfig::new(seed)) {
            Err(failure) => { bad += 1; println!("{seed}: FAIL {} {} {:?}", failure.at_us, failure.what, t.elapsed());
               if std::env::var("TRACE").is_ok() { println!("{failure}"); } }
            Ok(r) => println!("{seed}: {:?} ev {} sim {} ex {} acc {} dec {:?} conv {}", t.elapsed(), r.events, r.simulated_us, r.executions, r.accepted, r.decided, r.converged),
        }
    }
    assert_eq!(bad, 0);
}
