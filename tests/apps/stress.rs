//! stress-ng's socket stressors: they do what no sane program does, over loopback, with everything
//! hooked. They must end as on the kernel.

use super::bed::Bed;
use super::common::proc::PATIENCE;

#[test]
fn sockets_and_epoll() {
    let Some(bed) = Bed::new(&["stress-ng"], 1) else {
        return;
    };
    for stressor in ["sock", "epoll", "sockmany", "sockfd", "poll"] {
        let count = format!("--{stressor}");
        let ports = "5000-13000";
        let words = [
            "stress-ng",
            &count,
            "1",
            "--timeout",
            "2",
            "--metrics-brief",
        ];
        let mut run = bed.serving(ports);
        run.environment.clear();
        let mut stress = bed.server(run, &words);
        let status = stress.wait(PATIENCE * 3);
        assert!(status.success(), "{stressor}: {}", stress.report());
        let report = stress.stdout() + &stress.stderr();
        assert!(
            report.contains("successful run completed"),
            "{stressor}: {report}"
        );
    }
}
