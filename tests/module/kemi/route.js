// A KEMI script in JavaScript: asks memguard before it saves a registration (auto 0).
function ksr_request_route() {
    if (KSR.pv.get("$rm") != "REGISTER") {
        KSR.sl.sl_send_reply(200, "OK");
        return;
    }
    var wanted = KSR.pv.get("$hdr(X-Class)");
    var admitted = wanted ? KSR.memguard.admit_class(wanted) : KSR.memguard.admit();
    if (admitted < 0) {
        if (KSR.memguard.reject() < 0) {
            KSR.sl.sl_send_reply(500, "not rejected");
        }
        return;
    }
    KSR.hdr.append_to_reply("X-Guard: " + KSR.pv.get("$memguard(level)") + " " + admitted + "\r\n");
    KSR.registrar.save("location", 0);
}

function ksr_memguard_event(event) {
    var was = KSR.pv.get("$memguard(from)"), now = KSR.pv.get("$memguard(to)");
    KSR.notice("told: " + event + " " + was + " " + now + " end\n");
}
