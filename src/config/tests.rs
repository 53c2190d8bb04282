//! Tests of the configuration.

use super::*;

fn load(pairs: &[(&str, &str)]) -> Result<Loaded, String> {
    let variables = pairs
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()));
    Config::load(variables).map_err(|error| error.to_string())
}

fn config(pairs: &[(&str, &str)]) -> Config {
    load(pairs).unwrap().config.unwrap()
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn nothing_is_asked_for_without_a_device() {
    assert_eq!(load(&[]).unwrap(), Loaded::default());
    assert_eq!(
        load(&[("LUNA_LISTEN", "80"), ("PATH", "/bin")])
            .unwrap()
            .config,
        None
    );
    assert_eq!(load(&[("LUNA_DEV", "")]).unwrap().config, None);
    assert_eq!(
        load(&[("LUNA_DEV", "xdp:eth0"), ("LUNA_DISABLE", "yes")])
            .unwrap()
            .config,
        None
    );
    // Even if something else is wrong.
    assert_eq!(
        load(&[("LUNA_DEV", "nonsense"), ("LUNA_DISABLE", "1")])
            .unwrap()
            .config,
        None
    );
}

#[test]
fn every_variable_is_read() {
    let got = config(&[
        ("LUNA_DEV", "xdp:eth0"),
        ("LUNA_LISTEN", "6379, 61000-61999"),
        ("LUNA_CONNECT", "10.9.0.2:6379,10.9.1.0/24"),
        ("LUNA_CLIENT_PORTS", "50000-50999"),
        ("LUNA_MODE", "Dedicated"),
        ("LUNA_SHARDS", "4"),
        ("LUNA_BUSY", "on"),
        ("LUNA_LOG", "debug"),
        ("LUNA_STRICT", "true"),
        ("LUNA_HAIRPIN", "1"),
        ("LUNA_SPIN", "0"),
        ("LUNA_STEWARD_AFTER", "2ms"),
        ("LUNA_IO_URING", "1"),
        ("LUNA_CONGESTION", "cubic"),
        ("LUNA_PACING", "yes"),
        ("LUNA_DATACENTER", "10.0.0.0/8,fd00::/8"),
    ]);
    assert_eq!(got.congestion.name(), "cubic");
    assert!(got.pacing);
    let near = |peer: &str| got.is_in_data_centre(peer.parse().unwrap());
    assert!(near("10.9.0.1") && near("fd00::1") && near("::ffff:10.1.1.1"));
    assert!(!near("11.0.0.1") && !near("fe80::1"));
    assert_eq!(
        got.device,
        DeviceSpec::Xdp {
            interface: "eth0".into()
        }
    );
    assert_eq!(got.listen.to_string(), "6379,61000-61999");
    assert!(got.connect.matches("10.9.1.7:1".parse().unwrap()));
    assert_eq!(got.client_ports, 50000..=50999);
    assert_eq!(
        (got.mode, got.shards, got.log),
        (Mode::Dedicated, 4, LevelFilter::Debug)
    );
    assert!(got.busy && got.strict && got.hairpin && got.io_uring);
    assert_eq!(
        (got.spin, got.steward_after),
        (Duration::ZERO, Duration::from_millis(2))
    );
    let device = DeviceSpec::Xdp {
        interface: "eth0".into(),
    };
    assert_eq!(config(&[("LUNA_DEV", "xdp:eth0")]), Config::new(device));
}

#[test]
fn a_file_has_the_same_keys_and_the_environment_wins() {
    let file = file(
        "dev = \"xdp:eth1\"\nlisten = [80, \"8000-8009\"]\nshards = 2\nbusy = true\n\
         spin = \"10us\"\nclient_ports = \"50000-50999\"\n",
    );
    let path = file.path().to_str().unwrap();
    let got = config(&[
        ("LUNA_CONFIG", path),
        ("LUNA_SHARDS", "3"),
        ("LUNA_BUSY", "no"),
    ]);
    assert_eq!(got.device.to_string(), "xdp:eth1");
    assert_eq!(got.listen.to_string(), "80,8000-8009");
    assert_eq!(
        (got.shards, got.busy, got.spin),
        (3, false, Duration::from_micros(10))
    );
}

#[test]
fn errors_name_key_value_and_what_is_allowed() {
    let dev = ("LUNA_DEV", "xdp:eth0");
    for (name, value, wrong) in [
        ("LUNA_DEV", "eth0", "eth0"),
        (
            "LUNA_DEV",
            "xdp:averyverylonginterfacename",
            "averyverylong",
        ),
        (
            "LUNA_DEV",
            "memif:/run/m,role=boss,ip=1.2.3.4/8",
            "role is server or client",
        ),
        ("LUNA_LISTEN", "80,70000", "`70000`"),
        ("LUNA_CONNECT", "10.0.0.1/33", "`10.0.0.1/33`"),
        ("LUNA_CLIENT_PORTS", "9-1", "9-1"),
        ("LUNA_MODE", "fast", "batch or dedicated"),
        ("LUNA_SHARDS", "0", "from 1 to 256"),
        ("LUNA_SHARDS", "many", "many"),
        ("LUNA_BUSY", "maybe", "yes"),
        ("LUNA_LOG", "loud", "warn"),
        ("LUNA_SPIN", "5 minutes", "50us"),
        ("LUNA_SPIN", "-1", "50us"),
        ("LUNA_DISABLE", "perhaps", "perhaps"),
    ] {
        let error = load(&[dev, (name, value)]).unwrap_err();
        assert!(error.starts_with(name) && error.contains(wrong), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn errors_in_a_file_name_the_file() {
    for (text, wrong) in [
        ("dev = \"xdp:e\"\nshards = 1000\n", "shards in "),
        ("dev = \"xdp:e\"\nlsten = 80\n", "unknown field `lsten`"),
        ("dev = 1.5\n", "a string, a number"),
        ("listen = 80\n", "`dev` is missing"),
        ("dev = \n", "line 1"),
    ] {
        let file = file(text);
        let path = file.path().to_str().unwrap();
        let error = load(&[("LUNA_CONFIG", path)]).unwrap_err();
        assert!(error.contains(wrong) && error.contains(path), "{error}");
    }
    let error = load(&[("LUNA_CONFIG", "/nonexistent/luna.toml")]).unwrap_err();
    assert!(error.contains("/nonexistent/luna.toml"), "{error}");
}

#[test]
fn unknown_names_are_pointed_out() {
    let loaded = load(&[("LUNA_DEV", "xdp:e"), ("LUNA_LISTNE", "80"), ("LUNA_X", "")]).unwrap();
    assert_eq!(
        loaded.warnings,
        [
            "LUNA_LISTNE is not a setting; did you mean LUNA_LISTEN?",
            "LUNA_X is not a setting and has no effect"
        ]
    );
    assert!(loaded.config.is_some());
}

#[test]
fn device_specifications_round_trip() {
    for text in [
        "xdp:veth-a",
        "memif:/run/a.sock,role=client,ip=10.1.0.1/24,mtu=9000",
        "memif:@abstract,role=server,ip=fd00::1/64,mtu=1500",
        "pci:0000:3b:00.1",
        "pci:0000:3b:00.1,kernel=ens1f1",
        "eal:net_tap0,iface=tap0",
    ] {
        assert_eq!(DeviceSpec::parse(text).unwrap().to_string(), text);
    }
    assert_eq!(
        DeviceSpec::parse("pci:3b:00.1").unwrap().to_string(),
        "pci:0000:3b:00.1"
    );
    for text in [
        "",
        "xdp",
        "xdp:",
        "xdp:a/b",
        "xdp:a b",
        "pci:zz:00.1",
        "pci:3b:00.8",
        "pci:3b",
        "memif:/s",
        "memif:,role=server,ip=1.1.1.1/8",
        "eal:",
        "dpdk:x",
    ] {
        assert!(DeviceSpec::parse(text).is_err(), "{text}");
    }
    let error = DeviceSpec::parse("pci:3b:00.1,kernel=eth0")
        .unwrap()
        .check_supported()
        .unwrap_err();
    assert!(
        error.to_string().contains("pci:0000:3b:00.1,kernel=eth0"),
        "{error}"
    );
    for (text, shown) in [
        ("eal:net_tap0,iface=t0", "eal:net_tap0,iface=t0"),
        (
            "eal:net_tap0,ip=10.0.0.1/24,iface=t0",
            "eal:net_tap0,iface=t0,ip=10.0.0.1/24,mtu=1500",
        ),
        (
            "pci:3b:00.1,mtu=9000,ip=fd00::1/64",
            "pci:0000:3b:00.1,ip=fd00::1/64,mtu=9000",
        ),
    ] {
        assert_eq!(DeviceSpec::parse(text).unwrap().to_string(), shown);
    }
}

#[test]
fn the_list_of_settings_is_complete() {
    let keys: Vec<&str> = SETTINGS
        .iter()
        .map(|setting| setting.key)
        .filter(|key| !key.is_empty())
        .collect();
    assert_eq!(keys, file::KEYS);
    let page = include_str!("../../docs/CONFIG.md");
    for setting in SETTINGS {
        assert_eq!(
            setting
                .variable
                .strip_prefix("LUNA_")
                .map(str::to_lowercase)
                .unwrap(),
            if setting.key.is_empty() {
                "config"
            } else {
                setting.key
            }
        );
        assert!(
            page.contains(&format!("`{}`", setting.variable)),
            "{}",
            setting.variable
        );
    }
}
