-- A KEMI script in Lua: asks memguard before it saves a registration (auto 0).
function ksr_request_route()
    if KSR.pv.get("$rm") ~= "REGISTER" then
        KSR.sl.sl_send_reply(200, "OK")
        return
    end
    local wanted = KSR.pv.get("$hdr(X-Class)")
    local admitted
    if wanted then
        admitted = KSR.memguard.admit_class(wanted)
    else
        admitted = KSR.memguard.admit()
    end
    if admitted < 0 then
        if KSR.memguard.reject() < 0 then
            KSR.sl.sl_send_reply(500, "not rejected")
        end
        return
    end
    KSR.hdr.append_to_reply("X-Guard: " .. KSR.pv.get("$memguard(level)") .. " " .. admitted .. "\r\n")
    KSR.registrar.save("location", 0)
end

function ksr_memguard_event(event)
    local was, now = KSR.pv.get("$memguard(from)"), KSR.pv.get("$memguard(to)")
    KSR.notice("told: " .. event .. " " .. was .. " " .. now .. " end\n")
end
