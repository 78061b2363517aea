//! Routes with `enabled = false`: checked as if they ran.

use super::*;

const INVALIDATE: &str = r#"
[invalidate.products]
enabled = false
source = "main"
channels = ["changed"]
destination = "main"
keys = ["product:<pointer:/sku>"]
"#;

fn load(text: &str) -> Result<Config, String> {
    Files::new(&[("tidegate.toml", text)]).load(&[])
}

fn off(text: &str) -> String {
    text.replace("[capture.orders]", "[capture.orders]\nenabled = false")
}

#[test]
fn each_kind_can_be_disabled_and_an_invalidation_takes_its_capture_with_it() {
    let broadcast = "[broadcast.out]\nenabled = false\nsource = \"main\"\nstream = \"orders\"\n\
                     destination = \"main\"\nchannel = \"out\"\n";
    let config = load(&format!("{}{broadcast}{INVALIDATE}", off(ORDERS))).unwrap();
    assert_eq!(config.disabled.iter().collect::<Vec<_>>(), ["orders", "out", "products", "products-events"]);
    assert_eq!((config.is_enabled("orders"), config.enabled_captures()), (false, 0));
    let config = load(&format!("{ORDERS}{broadcast}")).unwrap();
    assert_eq!(
        (config.is_enabled("orders"), config.is_enabled("out"), config.is_enabled("none")),
        (true, false, false)
    );
    assert_eq!(config.enabled_captures(), 1);
    let variable = ("TIDEGATE_CAPTURE__ORDERS__ENABLED", "false");
    let config = Files::new(&[("tidegate.toml", ORDERS)]).load(&[variable]).unwrap();
    assert!(!config.is_enabled("orders"));
}

/// What another instance compares, and the rights: neither changes where a route is switched off and on.
#[test]
fn revision_and_rights_are_those_of_a_route_that_runs() {
    let (on, off) = (load(ORDERS).unwrap(), load(&off(ORDERS)).unwrap());
    assert_eq!(on.capture, off.capture);
    assert_eq!(on.capture["orders"].revision(), off.capture["orders"].revision());
    let rules = |config: &Config| -> Vec<Vec<String>> {
        let users = config::acl::users(config);
        users.iter().map(|user| user.rules(&config::acl::PasswordRule::Plain("any".to_owned()))).collect()
    };
    assert_eq!(rules(&on), rules(&off));
}

/// Or the reload that enables the route would be refused.
#[test]
fn a_disabled_route_is_refused_for_what_it_would_do_with_others() {
    let other = ORDERS.split("[capture.orders]").nth(1).unwrap().replace("1000", "2000");
    let unlike = load(&off(&format!("{ORDERS}[capture.other]{other}"))).unwrap_err();
    assert!(unlike.contains("differs from capture."), "{unlike}");
    let back = "[broadcast.back]\nsource = \"main\"\nstream = \"orders\"\ndestination = \"main\"\n\
                channel = \"orders\"\nenabled = false\n";
    let repeats = load(&format!("{ORDERS}{back}")).unwrap_err();
    assert!(repeats.contains("would repeat its own messages forever"), "{repeats}");
    let broken = load(&off(ORDERS).replace("channels = [\"orders\"]", "")).unwrap_err();
    assert!(broken.contains("names no channel"), "{broken}");
}
