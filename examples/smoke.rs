//! smoke
use atlas::{Client, ClientConfig};
use atlas_dataplane::{cluster::Cluster, crypto::SecretKey};
fn main() {
    let a: Vec<String> = std::env::args().collect();
    if a[1] == "init" {
        let o = atlas_dataplane::cluster::init::InitOptions::new(1790000000000);
        println!("{:?}", atlas_dataplane::cluster::init::init(a[2].as_ref(), &o).map(|_| ()));
    } else if a[1] == "replica" {
        if let Err(e) = atlas::replica::run(a[2].as_ref()) { eprintln!("{e}"); std::process::exit(1) }
    } else {
        let n: usize = a[3].parse().unwrap();
        let dir = std::path::Path::new(&a[2]);
        let cluster = Cluster::load(&dir.join("cluster.toml")).unwrap();
        let key = SecretKey::load(&dir.join("clients/operator.key")).unwrap();
        let mut c = Client::connect(ClientConfig::new(cluster, key)).unwrap();
        let mk = |i: usize| atlas::twin::operation::Operation::Write(atlas::twin::operation::Write::Set { twin: format!("plant/t{}", i % 1000), properties: vec![atlas::twin::operation::SetProperty { path: format!("p{}", i / 1000 % 16), value: atlas::twin::value::Value::Text("x".repeat(90)), quality: atlas::twin::value::Quality::Good, source_time_ns: None }], reason: None }).encode();
        let mut lat = vec![];
        let t0 = std::time::Instant::now();
        for i in 0..n {
            let t = std::time::Instant::now();
            let r = c.execute(vec![mk(i)]).unwrap();
            if i == 0 { println!("{r:?}"); }
            lat.push(t.elapsed().as_micros());
        }
        println!("one at a time: {:?}/op", t0.elapsed() / n as u32);
        lat.sort(); println!("p50 {} p99 {} max {}", lat[n / 2], lat[n * 99 / 100], lat[n - 1]);
        for bundle in [1usize, 64] {
            let total = n * 4 * bundle; let mut sent = 0; let mut done = 0; let t0 = std::time::Instant::now();
            while done < total {
                while sent < total && c.open_tickets() < 1024 / bundle - 1 {
                    let ops: Vec<_> = (sent..sent + bundle).map(mk).collect();
                    if c.submit(&ops, &Default::default()).is_err() { break }
                    sent += bundle;
                }
                for d in c.poll(std::time::Duration::from_millis(100)).unwrap() { if let Err(e) = d.result { println!("{e}"); } done += bundle; }
            }
            println!("bundle {bundle}: {:.0} ops/s", total as f64 / t0.elapsed().as_secs_f64());
        }
        for r in c.status(std::time::Duration::from_secs(2)).unwrap() { println!("{r:?}"); }
    }
}
