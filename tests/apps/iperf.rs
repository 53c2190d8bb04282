//! iperf3: both directions, several streams, both stacks as the client.

use super::bed::Bed;
use super::common::netns::checked;

#[test]
fn both_directions_and_parallel_streams() {
    let Some(bed) = Bed::new(&["iperf3"], 1) else {
        return;
    };
    let mut server = bed.server(bed.serving("5201"), &["iperf3", "-s"]);
    bed.wait_for_sockets(1, &["iperf3/", "LISTEN", ":5201 ", " luna "]);
    let address = bed.pair.a_end.v4.to_string();
    bed.quiet("iperf3", || {
        for more in [&["-P", "4"][..], &["-R"], &["--bidir"]] {
            let mut words = vec!["iperf3", "-c", &address, "-t", "1", "-J", "-4"];
            words.extend(more);
            for (stack, mut client) in bed.clients(&words) {
                let report: serde_json::Value =
                    serde_json::from_str(&checked(&mut client)).expect("a report in JSON");
                let received = &report["end"]["sum_received"];
                let bits = received["bits_per_second"].as_f64().expect("a rate");
                println!("{stack} {more:?}: {:.0} Mbit/s", bits / 1e6);
                assert!(bits > 20e6, "{stack} {more:?}: {bits} bit/s");
                assert!(received["bytes"].as_f64() > Some(1e6), "{stack} {more:?}");
            }
        }
    });
    assert!(server.ended().is_none(), "{}", server.report());
}
