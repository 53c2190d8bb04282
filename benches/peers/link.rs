//! A link of luna's, opened without luna's stack.

use std::collections::VecDeque;
use std::net::Ipv4Addr;

use luna::config::DeviceSpec;
use luna::device::memif::{Memif, MemifConfig};
use luna::device::{Device, RxFrame, TxFrame};
use luna::zbuf::{Area, Pool, PoolConfig};

pub(crate) struct Link {
    /// Keeps the program attached.
    #[cfg(feature = "xdp")]
    _steering: Option<luna::traffic::xdp::Steering>,
    pub(crate) device: Box<dyn Device>,
    pub(crate) pool: Pool,
    pub(crate) ip: Ipv4Addr,
    pub(crate) mac: [u8; 6],
    pub(crate) received: Vec<RxFrame>,
    pub(crate) out: VecDeque<TxFrame>,
}

fn pool(rx_object_bytes: Option<usize>) -> Pool {
    let area = Area::new(64 << 20).unwrap();
    let default = PoolConfig::default();
    let rx_object_bytes = rx_object_bytes.unwrap_or(default.rx_object_bytes);
    Pool::new(
        &area,
        PoolConfig {
            rx_object_bytes,
            ..default
        },
    )
    .unwrap()
}

impl Link {
    pub(crate) fn open(spec: &str, port: u16) -> Self {
        match DeviceSpec::parse(spec).unwrap() {
            DeviceSpec::Memif {
                socket,
                role,
                address,
                mtu,
                ..
            } => {
                let pool = pool(None);
                let device = Memif::open(&MemifConfig::new(&socket, role, mtu)).unwrap();
                let std::net::IpAddr::V4(ip) = address else {
                    panic!("IPv4 only")
                };
                Self::new(Box::new(device), pool, ip)
            }
            DeviceSpec::Xdp { interface } => Self::open_xdp(&interface, port),
            other => panic!("{other}: memif or xdp"),
        }
    }

    fn new(device: Box<dyn Device>, pool: Pool, ip: Ipv4Addr) -> Self {
        let [a, b, c, d] = ip.octets();
        Self {
            #[cfg(feature = "xdp")]
            _steering: None,
            device,
            pool,
            ip,
            mac: [2, 0, a, b, c, d],
            received: Vec::with_capacity(256),
            out: VecDeque::with_capacity(1024),
        }
    }

    #[cfg(feature = "xdp")]
    fn open_xdp(interface: &str, port: u16) -> Self {
        use luna::device::xdp::{XdpConfig, XdpDevice};
        use luna::traffic::xdp::{PortOwner, Steering};

        let mut steering = Steering::attach(interface).unwrap();
        let mut pool = pool(Some(steering.interface().rx_object_bytes()));
        let device = XdpDevice::open(interface, &[0], &mut pool, &XdpConfig::default()).unwrap();
        for (queue, socket) in device.sockets() {
            steering.register(queue, socket).unwrap();
        }
        let ip = address_of(interface);
        steering.set_local_addresses(&[ip.into()]).unwrap();
        steering.set_port(port, PortOwner::Luna).unwrap();
        let mut link = Self::new(Box::new(device), pool, ip);
        link._steering = Some(steering);
        link
    }

    #[cfg(not(feature = "xdp"))]
    fn open_xdp(interface: &str, _: u16) -> Self {
        panic!("{interface}: built without AF_XDP")
    }

    pub(crate) fn receive(&mut self, room: usize) -> usize {
        self.device
            .rx_burst(&mut self.pool, &mut self.received, room)
    }

    pub(crate) fn send(&mut self) {
        if !self.out.is_empty() {
            self.device.tx_burst(&mut self.pool, &mut self.out);
        }
        self.device.flush(&mut self.pool);
    }
}

/// The interface's first IPv4 address, from `ip`.
#[cfg(feature = "xdp")]
fn address_of(interface: &str) -> Ipv4Addr {
    let output = std::process::Command::new("ip")
        .args(["-o", "-4", "address", "show", "dev", interface])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut words = text.split_whitespace().skip_while(|word| *word != "inet");
    let address = words.nth(1).and_then(|word| word.split('/').next());
    address
        .and_then(|address| address.parse().ok())
        .expect("an IPv4 address")
}
