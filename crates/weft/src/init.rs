//! `weft init`.

use std::process::ExitCode;

use clap::ArgAction;
use ipnet::IpNet;
use weft_intercept::{
    Backend, BackendChoice, Families, Family, Host, InterceptConfig, InterceptError, PortRange, Report,
};

use crate::log::{self, Format};

/// Write the rules that bring the traffic of this network namespace to its proxy.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    action: Action,
    /// User id that the proxy runs as; its traffic is left alone.
    #[arg(long, value_name = "UID", default_value_t = weft_intercept::PROXY_UID)]
    proxy_uid: u32,
    /// Group id whose traffic is left alone as well.
    #[arg(long, value_name = "GID")]
    proxy_gid: Option<u32>,
    /// Further user ids whose traffic is left alone, such as that of a resolver inside the pod.
    #[arg(long, value_name = "UID", value_delimiter = ',')]
    exclude_uid: Vec<u32>,
    /// Where captured inbound connections go (bind.inbound).
    #[arg(long, value_name = "PORT", default_value_t = 15006)]
    inbound_port: u16,
    /// Where captured outbound connections go (bind.outbound).
    #[arg(long, value_name = "PORT", default_value_t = 15001)]
    outbound_port: u16,
    /// Where captured DNS goes (bind.dns).
    #[arg(long, value_name = "PORT", default_value_t = 15053)]
    dns_port: u16,
    /// Leave DNS alone. Destinations are then known by address only.
    #[arg(long)]
    no_dns: bool,
    /// Where the proxy is reached directly (bind.metrics, bind.health); name both where one is not the default. Nothing else
    /// may listen there: these ports are not captured.
    #[arg(long, value_name = "PORT", value_delimiter = ',', default_values_t = weft_intercept::OPEN_PORTS)]
    own_port: Vec<u16>,
    /// Capture only these inbound ports or ranges; default all.
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    include_inbound_ports: Vec<PortRange>,
    /// Do not capture these inbound ports or ranges.
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    exclude_inbound_ports: Vec<PortRange>,
    /// Capture only connections to these ports or ranges; default all.
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    include_outbound_ports: Vec<PortRange>,
    /// Do not capture connections to these ports or ranges.
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    exclude_outbound_ports: Vec<PortRange>,
    /// Capture only connections to these networks; default all.
    #[arg(long, value_name = "CIDRS", value_delimiter = ',', value_parser = cidr)]
    include_outbound_cidrs: Vec<IpNet>,
    /// Do not capture connections to these networks.
    #[arg(long, value_name = "CIDRS", value_delimiter = ',', value_parser = cidr)]
    exclude_outbound_cidrs: Vec<IpNet>,
    /// Leave the traffic of these interfaces alone, both ways.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    exclude_interface: Vec<String>,
    /// Which implementation of iptables to write with.
    #[arg(long, value_enum, default_value_t = BackendArg::Auto)]
    backend: BackendArg,
    /// Which families get rules.
    #[arg(long, value_enum, default_value_t = FamiliesArg::Auto)]
    families: FamiliesArg,
}

/// What to do; without any, the rules are written.
#[derive(clap::Args)]
#[group(multiple = false)]
struct Action {
    /// Print the rules and change nothing.
    #[arg(long, action = ArgAction::SetTrue)]
    print: bool,
    /// Write the rules, then prove with connections to itself that they work.
    #[arg(long, action = ArgAction::SetTrue)]
    verify: bool,
    /// Prove that the rules are there and work, and change nothing.
    #[arg(long, action = ArgAction::SetTrue)]
    check: bool,
    /// Remove the rules.
    #[arg(long, action = ArgAction::SetTrue)]
    remove: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum BackendArg {
    /// The one that has rules already, else what the machine's iptables is, else nft.
    Auto,
    Nft,
    Legacy,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum FamiliesArg {
    /// IPv4, and IPv6 where the kernel has it.
    Auto,
    Ipv4,
    Ipv6,
    Both,
}

/// A CIDR, or an address for the network of one.
fn cidr(text: &str) -> Result<IpNet, String> {
    let net = text.parse::<IpNet>().or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from));
    net.map(|net| net.trunc())
        .map_err(|_| "write a network such as 10.0.0.0/8 or fd00::/8, or an address".to_owned())
}

impl Args {
    fn config(&self) -> InterceptConfig {
        InterceptConfig {
            proxy_uid: self.proxy_uid,
            proxy_gid: self.proxy_gid,
            exclude_uids: self.exclude_uid.clone(),
            inbound_port: self.inbound_port,
            outbound_port: self.outbound_port,
            dns_port: (!self.no_dns).then_some(self.dns_port),
            open_ports: self.own_port.clone(),
            include_inbound_ports: self.include_inbound_ports.clone(),
            exclude_inbound_ports: self.exclude_inbound_ports.clone(),
            include_outbound_ports: self.include_outbound_ports.clone(),
            exclude_outbound_ports: self.exclude_outbound_ports.clone(),
            include_outbound_cidrs: self.include_outbound_cidrs.clone(),
            exclude_outbound_cidrs: self.exclude_outbound_cidrs.clone(),
            exclude_interfaces: self.exclude_interface.clone(),
        }
    }

    fn families(&self) -> Families {
        match self.families {
            FamiliesArg::Auto => Families::Auto,
            FamiliesArg::Ipv4 => Families::V4,
            FamiliesArg::Ipv6 => Families::V6,
            FamiliesArg::Both => Families::Both,
        }
    }

    fn backend(&self) -> BackendChoice {
        match self.backend {
            BackendArg::Auto => BackendChoice::Auto,
            BackendArg::Nft => BackendChoice::Only(Backend::Nft),
            BackendArg::Legacy => BackendChoice::Only(Backend::Legacy),
        }
    }
}

pub(crate) fn run(args: &Args, log: Option<&str>, format: Format) -> ExitCode {
    let env = std::env::var("WEFT_LOG").ok();
    if let Err(error) = log::start(&[log, env.as_deref()], format) {
        return crate::usage(error);
    }
    let config = args.config();
    if let Err(error) = config.validate() {
        return crate::usage(error);
    }
    if args.action.print {
        print(&config, args.families());
        return ExitCode::SUCCESS;
    }
    match act(args, &config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "interception");
            ExitCode::FAILURE
        }
    }
}

fn act(args: &Args, config: &InterceptConfig) -> Result<(), InterceptError> {
    let host = Host::detect(args.families(), args.backend())?;
    if args.action.remove {
        tell(&weft_intercept::remove(&host)?, "rules removed");
        return Ok(());
    }
    if !args.action.check {
        tell(&weft_intercept::install(config, &host)?, "rules written");
    }
    if args.action.check || args.action.verify {
        tell(&weft_intercept::verify(config, &host)?, "rules work");
    }
    Ok(())
}

fn tell(report: &Report, what: &str) {
    for notice in &report.notices {
        tracing::info!("{notice}");
    }
    for (family, backend) in &report.families {
        tracing::info!(%family, %backend, "{what}");
    }
    if report.families.is_empty() {
        tracing::info!("nothing to do");
    }
}

#[expect(clippy::print_stdout, reason = "the rules are what was asked for")]
fn print(config: &InterceptConfig, families: Families) {
    if families != Families::V6 {
        print!("# for iptables-restore --noflush\n{}", config.render(Family::V4));
    }
    if families != Families::V4 {
        print!("# for ip6tables-restore --noflush\n{}", config.render(Family::V6));
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        args: Args,
    }

    fn parse(flags: &[&str]) -> Result<Args, clap::Error> {
        Only::try_parse_from(["init"].iter().chain(flags)).map(|only| only.args)
    }

    #[test]
    fn without_flags_the_rules_are_the_default_ones() {
        assert_eq!(parse(&[]).unwrap().config(), InterceptConfig::default());
    }

    #[test]
    fn every_flag_has_its_effect() {
        let args = parse(&[
            "--proxy-uid=7",
            "--proxy-gid=8",
            "--exclude-uid=9,10",
            "--inbound-port=1",
            "--outbound-port=2",
            "--dns-port=3",
            "--own-port=4",
            "--include-inbound-ports=80,8000-8100",
            "--exclude-inbound-ports=81",
            "--include-outbound-ports=82",
            "--exclude-outbound-ports=83",
            "--include-outbound-cidrs=10.0.0.0/8,fd00::/8",
            "--exclude-outbound-cidrs=10.0.0.1",
            "--exclude-interface=eth1,eth2",
            "--backend=legacy",
            "--families=ipv6",
        ])
        .unwrap();
        let config = args.config();
        let text = format!("{}{}", config.render(Family::V4), config.render(Family::V6));
        for said in [
            "--uid-owner 7",
            "--gid-owner 8",
            "--uid-owner 9",
            "--uid-owner 10",
            "--to-ports 1 ",
            "--to-ports 2 ",
            "--to-ports 3 ",
            "--dport 4 ",
            "--dport 8000:8100",
            "--dport 81 ",
            "--dport 82 ",
            "--dport 83 ",
            "-d 10.0.0.0/8",
            "-d fd00::/8",
            "-d 10.0.0.1/32",
            "-i eth1",
            "-o eth2",
        ] {
            assert!(text.contains(said), "{said}");
        }
        assert_eq!((args.families(), args.backend()), (Families::V6, BackendChoice::Only(Backend::Legacy)));
        assert_eq!(parse(&["--no-dns"]).unwrap().config().dns_port, None);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for flags in [
            &["--print", "--remove"][..],
            &["--exclude-inbound-ports=0"],
            &["--include-outbound-cidrs=x"],
            &["--backend=bpf"],
        ] {
            assert!(parse(flags).is_err(), "{flags:?}");
        }
    }
}
